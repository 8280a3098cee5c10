package dispatcher_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// A dispatcher whose lease went to another cannot fence its message: it does not send and changes nothing.
func TestALostLeaseIsNotSent(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		id := q.enqueue(1, nil)[0]
		s := &sender{}
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			// The dispatcher is stopped here for longer than its lease; another takes over.
			q.exec("UPDATE outbox_claims SET lease_until = '" + past + "'")
			if _, err := q.Reap(ctx); err != nil {
				t.Error(err)
			}
			claimed, err := q.Claim(ctx, queue.ClaimRequest{Owner: "other", Limit: 1, Lease: time.Minute})
			if err != nil || len(claimed) != 1 {
				t.Errorf("the other dispatcher claims %d messages: %v", len(claimed), err)
			}
			return s.accept(ctx, env, body)
		}
		flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Name: "first"}, s))
		if n := len(s.messages()); n != 0 {
			t.Errorf("%d messages sent without a lease", n)
		}
		d := q.get(id).Deliveries[0]
		if d.State != outbox.StateSending || d.LeaseOwner != "other" {
			t.Errorf("the delivery is %s by %q: the stale dispatcher changed it", d.State, d.LeaseOwner)
		}
	})
}

func TestStopHandsBackWhatItHasNotBegun(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		ids := q.enqueue(4, nil) // as many as one worker holds
		began, goOn := make(chan struct{}), make(chan struct{})
		s := &sender{}
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			began <- struct{}{}
			<-goOn
			return s.accept(ctx, env, body)
		}
		ctx, cancel := context.WithCancel(t.Context())
		d := newDispatcher(t, dispatcher.Config{Queue: q, Concurrency: 1}, s)
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		<-began
		if err := d.Run(ctx); !errors.Is(err, dispatcher.ErrRunning) {
			t.Errorf("a second Run: %v", err)
		}
		cancel()
		// The worker must see that the lanes are closed before it takes the next job. Nothing shows that they are, except that
		// nothing more begins.
		close(goOn)
		for {
			select {
			case <-began: // the race for the next job was won by the worker: it is delivered, not lost
				continue
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
			}
			break
		}
		sent := 0
		for _, id := range ids {
			switch d := q.get(id).Deliveries[0]; d.State {
			case outbox.StateSent:
				sent++
			case outbox.StateQueued:
				if d.Attempts != 0 || d.Later {
					t.Errorf("handed back with %d attempts, later: %t", d.Attempts, d.Later)
				}
			default:
				t.Errorf("a delivery is left %s", d.State)
			}
		}
		if sent != len(s.messages()) || sent == 0 {
			t.Errorf("%d recorded as sent, %d at the relay", sent, len(s.messages()))
		}
	})
}

// When Grace is over, sends are cut off and their messages are handed back.
func TestGraceEnds(t *testing.T) {
	t.Parallel()
	q := newQueue(t, openSQLite(t))
	id := q.enqueue(1, nil)[0]
	began := make(chan struct{})
	s := &sender{send: func(ctx context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
		close(began)
		<-ctx.Done()
		return refuse(env, &smtpx.Error{Stage: smtpx.StageMail, Class: smtpx.ClassRecycle, Err: ctx.Err()})
	}}
	stop := start(t, newDispatcher(t, dispatcher.Config{Queue: q, Grace: 10 * time.Millisecond}, s))
	<-began
	stop()
	if d := q.get(id).Deliveries[0]; d.State != outbox.StateQueued || d.Attempts != 0 || d.Later {
		t.Errorf("%s with %d attempts, later: %t", d.State, d.Attempts, d.Later)
	}
}

// A message that takes longer than a lease keeps the lease, because it is renewed. Nobody else takes it over.
func TestLeasesAreRenewed(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		id := q.enqueue(1, nil)[0]
		renewed := make(chan struct{}, 100)
		f := &faulty{Queue: q, renew: func() error { renewed <- struct{}{}; return nil }}
		s := &sender{}
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			for range 7 { // more than two leases
				<-renewed
			}
			if report, err := q.Reap(ctx); err != nil || report != (queue.ReapReport{}) {
				t.Errorf("a reaper takes %+v (%v) from a live dispatcher", report, err)
			}
			return s.accept(ctx, env, body)
		}
		if report := flush(t, newDispatcher(t, dispatcher.Config{Queue: f, Lease: time.Second}, s)); report.Sent != 1 {
			t.Errorf("report %+v", report)
		}
		q.wantStates(id, outbox.StateSent)
	})
}

// The next dispatcher takes over what a dead one left.
func TestRunTakesUpWhatTheDeadLeft(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		ctx := t.Context()
		edit := []func(m *outbox.Message){
			nil,
			func(m *outbox.Message) { m.OnUncertain = outbox.Resend },
			func(m *outbox.Message) { m.OnUncertain = outbox.Hold },
		}
		ids := make([]outbox.ID, len(edit))
		for i, e := range edit {
			ids[i] = q.enqueue(1, e)[0]
		}
		var fenced []queue.FencedRef
		for range ids { // a claim each
			claimed, err := q.Claim(ctx, queue.ClaimRequest{Owner: "dead", Limit: 1, Lease: time.Minute, Fenced: true})
			if err != nil || len(claimed) != 1 {
				t.Fatalf("%d claimed: %v", len(claimed), err)
			}
			if c := claimed[0]; c.ID != ids[0] {
				fenced = append(fenced, queue.FencedRef{Ref: c.Ref(0)})
			}
		}
		if lost, err := q.Fence(ctx, fenced); err != nil || len(lost) != 0 {
			t.Fatalf("%v lost: %v", lost, err)
		}
		// The leases of the fenced messages have lapsed for longer than doubt is kept. The other has just lapsed.
		q.exec("UPDATE outbox_claims SET lease_until = '" + past + "' WHERE token IN (SELECT token FROM outbox_fences)")
		if report, err := q.Reap(ctx); err != nil || report.Uncertain != 2 {
			t.Fatalf("reaped %+v: %v", report, err)
		}
		q.exec("UPDATE outbox_deliveries SET due_at = '" + past + "' WHERE state = 'uncertain'")
		q.exec("UPDATE outbox_claims SET lease_until = '" + past + "'")

		arrived := make(chan struct{}, 10)
		s := &sender{}
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			defer func() { arrived <- struct{}{} }()
			return s.accept(ctx, env, body)
		}
		stop := start(t, newDispatcher(t, dispatcher.Config{Queue: q, Poll: time.Hour}, s))
		<-arrived
		<-arrived
		stop()
		q.wantStates(ids[0], outbox.StateSent)
		q.wantStates(ids[1], outbox.StateSent)
		q.wantStates(ids[2], outbox.StateUncertain)
		if n := len(s.messages()); n != 2 {
			t.Errorf("%d messages sent, want 2", n)
		}
	})
}
