package dispatcher_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// The tests in this file combine two mechanisms: two claims of one process, doubt and a policy that gives up, a deadline and a
// wait for a connection, a rate and a Flush, a stop and an outage.

// A process that was stopped past its leases claims its own delivery again. Both claims ask for the fence
// at the same time. Only the new one is sent, and both outcomes are settled.
func TestAStaleClaimBesideItsSuccessor(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		id := q.enqueue(1, nil)[0]
		s := &sender{}
		began, both := make(chan struct{}, 2), make(chan struct{})
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			began <- struct{}{}
			<-both
			return s.accept(ctx, env, body)
		}
		d := newDispatcher(t, dispatcher.Config{Queue: q, Poll: 10 * time.Millisecond}, s)
		stop := start(t, d)
		<-began
		q.exec("UPDATE outbox_claims SET lease_until = '" + past + "'")
		if _, err := q.Reap(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-began // the same process again
		close(both)
		until(t, "the message is sent", func() bool { return q.get(id).Deliveries[0].State == outbox.StateSent })
		stop()
		if n := len(s.messages()); n != 1 {
			t.Errorf("%d copies sent, want 1", n)
		}
	})
}

// A delivery in doubt that the policy gives up stays uncertain for an operator. It is neither sent again nor failed.
func TestDoubtThatIsGivenUp(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		id := q.enqueue(1, nil)[0]
		s := &sender{send: func(_ context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
			return refuse(env, lost(smtpx.StageDot, smtpx.ClassAmbiguous))
		}}
		d := newDispatcher(t, dispatcher.Config{Queue: q, Retry: dispatcher.Backoff{Attempts: 1}}, s)
		for range 3 {
			flush(t, d)
		}
		m := q.get(id)
		if m.Deliveries[0].State != outbox.StateUncertain || m.Deliveries[0].Attempts != 1 {
			t.Errorf("%s after %d attempts, want uncertain after 1", m.Deliveries[0].State, m.Deliveries[0].Attempts)
		}
	})
}

// A message whose deadline passes while it waits for a connection is not sent: the last check is just before the body.
func TestTheDeadlinePassesInThePool(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		id := q.enqueue(1, func(m *outbox.Message) { m.Expires = time.Now().Add(time.Hour) })[0]
		f := &shortLived{Queue: q}
		s := &sender{}
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			<-time.After(f.left()) // as a full pool would keep it waiting
			return s.accept(ctx, env, body)
		}
		if report := flush(t, newDispatcher(t, dispatcher.Config{Queue: f}, s)); report.Expired != 1 || len(s.messages()) != 0 {
			t.Errorf("report %+v, %d sent", report, len(s.messages()))
		}
		q.wantStates(id, outbox.StateExpired)
	})
}

// shortLived is a queue whose messages expire soon after they are claimed.
type shortLived struct{ dispatcher.Queue }

func (*shortLived) left() time.Duration { return 50 * time.Millisecond }

// Claim shortens the time until the deadline.
func (s *shortLived) Claim(ctx context.Context, req queue.ClaimRequest) ([]queue.Claimed, error) {
	list, err := s.Queue.Claim(ctx, req)
	for i := range list {
		list[i].ExpiresIn = s.left()
	}
	return list, err
}

// When the lease of a message lapses before its fence, no recipient was sent to. They are handed back and are not in doubt.
func TestALapsedMessageIsHandedBack(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		id := q.enqueue(1, func(m *outbox.Message) { m.To = append(m.To, outbox.Address{Address: "bob@example.org"}) })[0]
		s, first := &sender{}, failFirst(1, errors.New("first"))
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			if first() != nil {
				q.exec("UPDATE outbox_claims SET lease_until = '" + past + "'")
			}
			return s.accept(ctx, env, body)
		}
		report := flush(t, newDispatcher(t, dispatcher.Config{Queue: q}, s))
		if report.Recycled != 2 || report.Sent != 2 {
			t.Errorf("report %+v, want both handed back and then sent", report)
		}
		q.wantStates(id, outbox.StateSent, outbox.StateSent)
		if n := len(s.messages()); n != 1 {
			t.Errorf("%d copies sent, want 1", n)
		}
	})
}

// A session that is used up time and again is waited out as an outage is. The budget ends it.
func TestSessionsThatAreAlwaysUsedUp(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		id := q.enqueue(1, nil)[0]
		s := &sender{send: func(_ context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
			return refuse(env, reply(smtpx.StageMail, smtpx.ClassRecycle, 421, "maximum message count per session reached"))
		}}
		d := newDispatcher(t, dispatcher.Config{Queue: q, MaxAge: time.Hour}, s)
		if report := flush(t, d); report.Recycled != 1 || report.Deferred != 1 {
			t.Errorf("report %+v, want one at once and then a wait", report)
		}
		if m := q.get(id).Deliveries[0]; !m.Later || m.DeferredSince.IsZero() {
			t.Errorf("the second time it is due %v, deferred since %v", m.DueAt, m.DeferredSince)
		}
		q.exec("UPDATE outbox_deliveries SET due_at = '" + past + "', deferred_since = '" + past + "'")
		flush(t, d)
		q.wantStates(id, outbox.StateFailed)
	})
}

// A Flush with a rate ends when all that is due is sent, not when the first allowance is used up.
func TestFlushWithARate(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		q.enqueue(20, nil)
		s := &sender{}
		relays := []dispatcher.Relay{{Name: "main", Sender: s, Rate: queue.Rate{PerSecond: 50, Burst: 2}}}
		if report := flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Relays: relays}, nil)); report.Sent != 20 {
			t.Errorf("report %+v, want 20 sent", report)
		}
	})
}

// A backup with a rate and nothing to do does not end a Flush that waits for another relay's allowance.
func TestFlushWithARateBesideABackup(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		q.enqueue(20, nil)
		rate := queue.Rate{PerSecond: 50, Burst: 2}
		relays := []dispatcher.Relay{
			{Name: "spare", Sender: &sender{}, Rate: rate, Backup: true}, {Name: "main", Sender: &sender{}, Rate: rate},
		}
		if report := flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Relays: relays}, nil)); report.Sent != 20 {
			t.Errorf("report %+v", report)
		}
	})
}

// A message that was scrubbed while it waited cannot be sent any more, and says so.
func TestAScrubbedMessageFails(t *testing.T) {
	t.Parallel()
	q := newQueue(t, openSQLite(t))
	id := q.enqueue(1, nil)[0]
	q.exec("UPDATE outbox_messages SET body = NULL")
	flush(t, newDispatcher(t, dispatcher.Config{Queue: q}, &sender{}))
	if d := q.get(id).Deliveries[0]; d.State != outbox.StateFailed || !strings.Contains(d.Reply, "scrubbed") {
		t.Errorf("%s: %q", d.State, d.Reply)
	}
}

// A stop does not wait for a database for longer than documented. An accepted message is not lost: its lease lapses.
func TestAStopWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	q := newQueue(t, openSQLite(t))
	id := q.enqueue(1, nil)[0]
	failed := make(chan struct{})
	var once sync.Once
	away := &faulty{Queue: q, settle: func() error { once.Do(func() { close(failed) }); return errDatabase }}
	stop := start(t, newDispatcher(t, dispatcher.Config{Queue: away, Lease: time.Second, Grace: 100 * time.Millisecond}, &sender{}))
	<-failed
	stop()
	q.wantStates(id, outbox.StateSending)
}

// The log tells the outcome of a message, but no address.
func TestTheLogHoldsNoAddresses(t *testing.T) {
	t.Parallel()
	q := newQueue(t, openSQLite(t))
	id := q.enqueue(1, nil)[0]
	var log bytes.Buffer
	s := &sender{send: func(_ context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
		return refuse(env, reply(smtpx.StageRcpt, smtpx.ClassRecipient, 550, "<ada@example.org>: no such user"))
	}}
	flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Logger: slog.New(slog.NewTextHandler(&log, nil))}, s))
	if text := log.String(); strings.Contains(text, "ada@") || strings.Contains(text, "Your order") || !strings.Contains(text, "no such user") {
		t.Errorf("the log says %s", text)
	}
	if d := q.get(id).Deliveries[0]; !strings.Contains(d.Reply, "<ada@example.org>") {
		t.Errorf("the database says %q", d.Reply)
	}
}

// A sender that was fenced and gives up because the dispatcher stops leaves a doubt. It is not sent again.
func TestAStopAfterTheFenceLeavesADoubt(t *testing.T) {
	t.Parallel()
	for name, gives := range map[string]func(ctx context.Context) error{
		"the context's error": func(ctx context.Context) error { return ctx.Err() },
		"an error of its own": func(context.Context) error { return errors.New("gave up") },
		"an ambiguous error": func(ctx context.Context) error {
			return &smtpx.Error{Stage: smtpx.StageDot, Class: smtpx.ClassAmbiguous, Err: ctx.Err()}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := newQueue(t, openSQLite(t))
			id := q.enqueue(1, func(m *outbox.Message) { m.OnUncertain = outbox.Hold })[0]
			began := make(chan struct{})
			s := &sender{}
			s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
				if _, err := s.accept(ctx, env, body); err != nil {
					return smtpx.Result{}, err
				}
				close(began)
				<-ctx.Done()
				return smtpx.Result{}, gives(ctx)
			}
			stop := start(t, newDispatcher(t, dispatcher.Config{Queue: q, Grace: 10 * time.Millisecond}, s))
			<-began
			stop()
			q.wantStates(id, outbox.StateUncertain)
		})
	}
}

// A refusal for now is waited out. It is no reason to try another relay at once.
func TestARefusalDoesNotFailOver(t *testing.T) {
	t.Parallel()
	q := newQueue(t, openSQLite(t))
	id := q.enqueue(1, nil)[0]
	refusing := &sender{send: func(_ context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
		return refuse(env, reply(smtpx.StageRcpt, smtpx.ClassTransient, 451, "greylisted"))
	}}
	list := []dispatcher.Relay{{Name: "a", Sender: refusing}, {Name: "b", Sender: &sender{send: refusing.send}}}
	flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Relays: list}, nil))
	if d := q.get(id).Deliveries[0]; d.Attempts != 1 || time.Until(d.DueAt) < 10*time.Second {
		t.Errorf("%d attempts, due in %v", d.Attempts, time.Until(d.DueAt))
	}
}

// A message waits at least as long as the relay asks for.
func TestRetryAfterIsHeeded(t *testing.T) {
	t.Parallel()
	q := newQueue(t, openSQLite(t))
	id := q.enqueue(1, nil)[0]
	s := &sender{send: func(_ context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
		e := reply(smtpx.StageRcpt, smtpx.ClassTransient, 451, "try again in 3 hours")
		e.RetryAfter = 3 * time.Hour
		return refuse(env, e)
	}}
	flush(t, newDispatcher(t, dispatcher.Config{Queue: q}, s))
	if d := q.get(id).Deliveries[0]; time.Until(d.DueAt) < 2*time.Hour {
		t.Errorf("due in %v", time.Until(d.DueAt))
	}
}

// A sender that calls Commit after Send has returned is refused, also after the dispatcher has stopped. Nothing panics.
func TestCommitAfterSendIsRefused(t *testing.T) {
	t.Parallel()
	q := newQueue(t, openSQLite(t))
	q.enqueue(1, nil)
	var commit func(context.Context) error
	s := &sender{send: func(_ context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
		commit = env.Commit
		return refuse(env, reply(smtpx.StageRcpt, smtpx.ClassTransient, 451, "later"))
	}}
	flush(t, newDispatcher(t, dispatcher.Config{Queue: q}, s))
	if err := commit(t.Context()); err == nil {
		t.Error("a late Commit succeeded")
	}
}
