package dispatcher_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/store"
)

func storeFilter(state outbox.State) store.Filter { return store.Filter{States: []outbox.State{state}} }

func storeFilterIDs(ids ...outbox.ID) store.Filter { return store.Filter{IDs: ids} }

// The Observer hears of every step, in order.
func TestObserver(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		var mu sync.Mutex
		var heard []string
		note := func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, fmt.Sprintf(format, args...))
		}
		s := &sender{}
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			if env.To[0] == "bad@example.org" {
				return refuse(env, reply(smtpx.StageRcpt, smtpx.ClassRecipient, 550, "no such user"))
			}
			return s.accept(ctx, env, body)
		}
		d := newDispatcher(t, dispatcher.Config{Queue: q, Observer: dispatcher.Observer{
			Claimed: func(_ context.Context, e dispatcher.ClaimedEvent) {
				note("claimed %d/%d for %s", e.Messages, e.Deliveries, e.Relay)
			},
			SendStart: func(_ context.Context, e dispatcher.SendEvent) { note("start %s", e.Message.Subject) },
			Outcome: func(_ context.Context, e dispatcher.OutcomeEvent) {
				note("%s %s %d", e.Event, e.Delivery.Recipient, e.Settlement.Evidence.Code)
			},
		}}, s)
		q.enqueue(1, nil)
		flush(t, d)
		q.enqueue(1, func(m *outbox.Message) { m.To[0].Address = "bad@example.org" })
		flush(t, d)
		want := []string{
			"claimed 1/1 for main", "start Your order", "send_success ada@example.org 250",
			"claimed 1/1 for main", "start Your order", "send_failed bad@example.org 550",
		}
		if !slices.Equal(heard, want) {
			t.Errorf("heard %q", heard)
		}
	})
}

// The Observer hears when the queue fails and when it answers again, and of leases that are lost.
func TestObserverOfTheQueue(t *testing.T) {
	t.Parallel()
	q := newQueue(t, openSQLite(t))
	var mu sync.Mutex
	var heard []string
	again := make(chan struct{})
	d := newDispatcher(t, dispatcher.Config{
		Queue: &faulty{Queue: q, claim: failFirst(2, errDatabase)}, Poll: 10 * time.Millisecond,
		Observer: dispatcher.Observer{Queue: func(_ context.Context, call string, err error) {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, fmt.Sprint(call, " ", err))
			if err == nil {
				close(again)
			}
		}},
	}, &sender{})
	q.enqueue(1, nil)
	stop := start(t, d)
	<-again
	if h := d.Health(); !h.Ready {
		t.Errorf("health after the queue answered: %+v", h)
	}
	stop()
	if want := []string{"claim the database is away", "claim <nil>"}; !slices.Equal(heard, want) {
		t.Errorf("heard %q", heard)
	}
	if h := d.Health(); h.Live || h.Ready || len(h.Reasons) != 1 {
		t.Errorf("health after Run: %+v", h)
	}
}

// Panics in hooks, middleware and senders are contained. The message is kept, and is uncertain if it may have left.
func TestPanicsAreContained(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		before, behind := q.enqueue(1, func(m *outbox.Message) { m.Subject = "before" })[0], q.enqueue(1, func(m *outbox.Message) {
			m.Subject, m.OnUncertain = "behind", outbox.Hold
		})[0]
		fine := q.enqueue(1, nil)[0]
		boom := func(context.Context, dispatcher.OutcomeEvent) { panic("a hook") }
		d := newDispatcher(t, dispatcher.Config{
			Queue: q, Concurrency: 1,
			Observer: dispatcher.Observer{Outcome: boom},
			Middleware: []dispatcher.Middleware{func(next dispatcher.SendFunc) dispatcher.SendFunc {
				return func(ctx context.Context, s *dispatcher.Sending) (smtpx.Result, error) {
					if s.Message.Subject == "before" {
						panic("before it is sent")
					}
					res, err := next(ctx, s)
					if s.Message.Subject == "behind" {
						panic("after it was sent")
					}
					return res, err
				}
			}},
		}, &sender{})
		report := flush(t, d)
		if report.Sent != 1 || report.Deferred != 1 || report.Uncertain != 1 {
			t.Errorf("report %+v", report)
		}
		q.wantStates(before, outbox.StateQueued)
		q.wantStates(behind, outbox.StateUncertain)
		q.wantStates(fine, outbox.StateSent)
		if r := q.get(before).Deliveries[0].Reply; !strings.Contains(r, "panicked") {
			t.Errorf("the reason is %q", r)
		}
	})
}

// Middleware sees envelope and body, may change the body, and is called in its order.
func TestMiddleware(t *testing.T) {
	t.Parallel()
	q := newQueue(t, openSQLite(t))
	s := &sender{}
	named := func(name string) dispatcher.Middleware {
		return func(next dispatcher.SendFunc) dispatcher.SendFunc {
			return func(ctx context.Context, m *dispatcher.Sending) (smtpx.Result, error) {
				m.Body = append([]byte("X-Seen: "+name+" "+m.Relay+" "+m.Envelope.To[0]+"\r\n"), m.Body...)
				return next(ctx, m)
			}
		}
	}
	refuses := func(next dispatcher.SendFunc) dispatcher.SendFunc {
		return func(ctx context.Context, m *dispatcher.Sending) (smtpx.Result, error) {
			if m.Message.Subject == "never" {
				return smtpx.Result{}, &smtpx.Error{Stage: smtpx.StageData, Class: smtpx.ClassMessage, Err: errors.New("our policy")}
			}
			return next(ctx, m)
		}
	}
	q.enqueue(1, nil)
	never := q.enqueue(1, func(m *outbox.Message) { m.Subject = "never" })[0]
	flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Middleware: []dispatcher.Middleware{named("one"), refuses, named("two")}}, s))
	q.wantStates(never, outbox.StateFailed)
	sent := s.messages()
	if len(sent) != 1 || !strings.HasPrefix(sent[0].body, "X-Seen: two main ada@example.org\r\nX-Seen: one main ada@example.org\r\n") {
		t.Errorf("sent %q", sent)
	}
}

// FenceHold does not fence messages with Resend. It still sends nothing whose lease it has lost by its own clock.
func TestFenceHold(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		var fenced sync.Map
		counting := &counted{faulty: faulty{Queue: q}, fenced: &fenced}
		list := []dispatcher.Relay{{Name: "main", Sender: &sender{}, Fence: dispatcher.FenceHold}}
		resend, hold := q.enqueue(1, nil)[0], q.enqueue(1, func(m *outbox.Message) { m.OnUncertain = outbox.Hold })[0]
		flush(t, newDispatcher(t, dispatcher.Config{Queue: counting, Relays: list}, nil))
		if _, ok := fenced.Load(resend); ok {
			t.Error("a message with Resend was fenced")
		}
		if _, ok := fenced.Load(hold); !ok {
			t.Error("a message with Hold was not fenced")
		}

		// Renewals fail, and the message comes to its final dot after its lease.
		late := &sender{}
		release := make(chan struct{})
		var calls atomic.Int64
		late.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			calls.Add(1)
			<-release
			return late.accept(ctx, env, body)
		}
		time.AfterFunc(1200*time.Millisecond, func() { close(release) })
		list[0].Sender = late
		id := q.enqueue(1, nil)[0]
		away := &faulty{Queue: q, renew: func() error { return errDatabase }}
		flush(t, newDispatcher(t, dispatcher.Config{Queue: away, Relays: list, Lease: time.Second}, nil))
		if n := calls.Load(); n != 2 { // handed back and claimed again
			t.Errorf("%d attempts, want one whose lease was over and one more", n)
		}
		if n := len(late.messages()); n != 1 {
			t.Errorf("%d copies were sent", n)
		}
		if len(q.get(id).Deliveries) != 1 || q.get(id).Deliveries[0].State != outbox.StateSent {
			t.Errorf("the delivery is %+v", q.get(id).Deliveries)
		}
	})
}

// counted remembers the messages that were fenced.
type counted struct {
	faulty
	fenced *sync.Map
}

func (c *counted) Fence(ctx context.Context, list []queue.FencedRef) ([]queue.Ref, error) {
	for _, s := range list {
		c.fenced.Store(s.Ref.ID, true)
	}
	return c.Queue.Fence(ctx, list)
}

// A recipient that will never be accepted is put on the suppression list if the route asks for it, and only then.
func TestSuppress(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		s := &sender{send: func(_ context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
			return refuse(env, reply(smtpx.StageRcpt, smtpx.ClassRecipient, 550, "5.1.1 no such user"))
		}}
		to := func(route, address string) {
			q.enqueue(1, func(m *outbox.Message) { m.Route, m.To[0].Address = route, address })
		}
		to("news", "gone@example.org")
		to("default", "also@example.org")
		d := newDispatcher(t, dispatcher.Config{Queue: q, Suppress: []string{"news"}}, s)
		if r := flush(t, d); r.Failed != 2 {
			t.Fatalf("report %+v", r)
		}
		for address, want := range map[string]bool{"gone@example.org": true, "also@example.org": false} {
			entry, ok, err := q.Suppressed(t.Context(), address)
			if err != nil || ok != want {
				t.Errorf("%s: on the list %v, error %v", address, ok, err)
			}
			if ok && (entry.Source != "bounce" || entry.Reason != "5.1.1 no such user") {
				t.Errorf("entry %+v", entry)
			}
		}
		id := q.enqueue(1, func(m *outbox.Message) { m.To[0].Address = "gone@example.org" })[0]
		flush(t, d)
		q.wantStates(id, outbox.StateSuppressed)
	})
}

// A full mailbox fails the message; its address stays off the list, as it may have room for the next one.
func TestAFullMailboxIsNotSuppressed(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		s := &sender{send: func(_ context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
			return refuse(env, reply(smtpx.StageRcpt, smtpx.ClassRecipient, 552, "5.2.2 mailbox is full"))
		}}
		q.enqueue(1, func(m *outbox.Message) { m.To[0].Address = "full@example.org" })
		if r := flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Suppress: []string{"*"}}, s)); r.Failed != 1 {
			t.Fatalf("report %+v", r)
		}
		if entry, ok, err := q.Suppressed(t.Context(), "full@example.org"); ok || err != nil {
			t.Errorf("on the list %v %+v, error %v", ok, entry, err)
		}
		id := q.enqueue(1, func(m *outbox.Message) { m.To[0].Address = "full@example.org" })[0]
		flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Suppress: []string{"*"}}, &line{}))
		q.wantStates(id, outbox.StateSent)
	})
}

// The pause of a relay at its quota holds for every dispatcher of the database.
func TestAQuotaIsShared(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		e := reply(smtpx.StageMail, smtpx.ClassQuota, 550, "daily limit exceeded")
		e.RetryAfter = time.Hour
		first := &line{answer: always(e)}
		q.enqueue(1, nil)
		flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Name: "one"}, first))
		q.enqueue(5, nil)
		second := &line{}
		if r := flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Name: "two"}, second)); r.Attempted() != 0 || second.tried() != 0 {
			t.Errorf("the other dispatcher tried %d: %+v", second.tried(), r)
		}
		states, err := q.RelayStates(t.Context())
		if err != nil || len(states) != 1 || states[0].Paused < 59*time.Minute || states[0].Reason != "daily limit exceeded" {
			t.Errorf("states %+v, error %v", states, err)
		}
		if ok, err := q.ResumeRelay(t.Context(), "main"); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if r := flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Name: "three"}, second)); r.Sent != 5 {
			t.Errorf("after the operator resumed the relay: %+v", r)
		}
	})
}

// A message in several transactions loses its lease behind the first. What the relay accepted is sent; only the rest goes again.
func TestALostLeaseBetweenTransactions(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		var mu sync.Mutex
		copies := map[string]int{}
		release := make(chan struct{})
		time.AfterFunc(1200*time.Millisecond, func() { close(release) })
		parts := &sender{}
		parts.send = func(ctx context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
			if err := env.Commit(ctx); err != nil {
				return refuse(env, &smtpx.Error{Stage: smtpx.StageData, Class: smtpx.ClassRecycle, Err: err})
			}
			var res smtpx.Result
			var failed *smtpx.Error
			for i, to := range env.To { // one transaction for each recipient
				if failed == nil && env.CommitAccepted != nil {
					if err := env.CommitAccepted(ctx, []int{i}); err != nil {
						failed = &smtpx.Error{Stage: smtpx.StageData, Class: smtpx.ClassRecycle, Err: err}
					}
				}
				if failed != nil {
					res.Outcomes = append(res.Outcomes, smtpx.Outcome{Recipient: to, Err: failed})
					continue
				}
				mu.Lock()
				copies[to]++
				mu.Unlock()
				res.Outcomes = append(res.Outcomes, smtpx.Outcome{Recipient: to, Accepted: true})
				if i == 0 {
					<-release // longer than the lease, whose renewals fail
				}
			}
			if failed != nil {
				return res, failed
			}
			return res, nil
		}
		id := q.enqueue(1, func(m *outbox.Message) {
			m.To = []outbox.Address{{Address: "a@example.org"}, {Address: "b@example.org"}}
		})[0]
		away := &faulty{Queue: q, renew: func() error { return errDatabase }}
		list := []dispatcher.Relay{{Name: "main", Sender: parts, Fence: dispatcher.FenceHold}}
		flush(t, newDispatcher(t, dispatcher.Config{Queue: away, Relays: list, Lease: time.Second}, nil))
		mu.Lock()
		defer mu.Unlock()
		for _, d := range q.get(id).Deliveries {
			if n := copies[d.Recipient]; n != 1 || d.State != outbox.StateSent {
				t.Errorf("%s got %d copies and is %s", d.Recipient, n, d.State)
			}
		}
	})
}
