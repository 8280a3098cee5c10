package dispatcher_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/smtpx"
)

func TestNewRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	q := newQueue(t, openSQLite(t))
	relay := dispatcher.Relay{Name: "main", Sender: &sender{}}
	for name, test := range map[string]struct {
		cfg  dispatcher.Config
		want string
	}{
		"no queue":          {dispatcher.Config{Relays: []dispatcher.Relay{relay}}, "no queue given"},
		"no relay":          {dispatcher.Config{Queue: q}, "no relay given"},
		"no name":           {dispatcher.Config{Queue: q, Relays: []dispatcher.Relay{{Sender: &sender{}}}}, "relay 1: name"},
		"a name with space": {dispatcher.Config{Queue: q, Relays: []dispatcher.Relay{{Name: "a b", Sender: &sender{}}}}, `character ' '`},
		"twice":             {dispatcher.Config{Queue: q, Relays: []dispatcher.Relay{relay, relay}}, "two relays"},
		"no sender":         {dispatcher.Config{Queue: q, Relays: []dispatcher.Relay{{Name: "main"}}}, "no sender given"},
		"a bad route": {dispatcher.Config{Queue: q, Relays: []dispatcher.Relay{
			{Name: "main", Sender: &sender{}, Routes: []string{""}},
		}}, "route"},
		"concurrency":   {dispatcher.Config{Queue: q, Relays: []dispatcher.Relay{relay}, Concurrency: -1}, "concurrency"},
		"poll":          {dispatcher.Config{Queue: q, Relays: []dispatcher.Relay{relay}, Poll: -1}, "poll"},
		"a short lease": {dispatcher.Config{Queue: q, Relays: []dispatcher.Relay{relay}, Lease: time.Millisecond}, "lease"},
		"backoff":       {dispatcher.Config{Queue: q, Relays: []dispatcher.Relay{relay}, Retry: dispatcher.Backoff{Factor: 0.5}}, "factor"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := dispatcher.New(test.cfg); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("New: %v, want an error with %q", err, test.want)
			}
		})
	}
}

func TestFlushDeliversWhatIsDue(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		ids := q.enqueue(120, nil)
		later := q.enqueue(1, func(m *outbox.Message) { m.NotBefore = time.Now().Add(time.Hour) })[0]
		s := &sender{}
		report := flush(t, newDispatcher(t, dispatcher.Config{Queue: q}, s))
		if report != (dispatcher.Report{Sent: 120}) {
			t.Errorf("report %+v, want 120 sent", report)
		}
		if n := len(s.messages()); n != 120 {
			t.Errorf("%d messages reached the relay, want 120", n)
		}
		m := q.get(ids[0])
		d := m.Deliveries[0]
		if d.State != outbox.StateSent || d.Attempts != 1 || d.Relay != "main" || d.ProviderID != "q1" || d.Code != 250 ||
			d.Enhanced != "2.0.0" || d.Reply != "Ok: queued as q1" || d.FinishedAt.IsZero() || len(m.Attempts) != 0 {
			t.Errorf("delivery %+v with %d attempts noted", d, len(m.Attempts))
		}
		q.wantStates(later, outbox.StateQueued)
		if again := flush(t, newDispatcher(t, dispatcher.Config{Queue: q}, s)); again.Attempted() != 0 {
			t.Errorf("a second flush attempted %+v", again)
		}
	})
}

// Every class leads to the outcome that the table in docs/architecture.md says.
func TestOutcomesByClass(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		for i, test := range []struct {
			err      *smtpx.Error
			state    outbox.State
			attempts int // counted
			later    bool
			deferred bool
		}{
			{reply(smtpx.StageDot, smtpx.ClassTransient, 451, "try later"), outbox.StateQueued, 1, true, false},
			{reply(smtpx.StageMail, smtpx.ClassThrottled, 454, "too fast"), outbox.StateQueued, 0, true, true},
			{reply(smtpx.StageMail, smtpx.ClassQuota, 452, "enough for today"), outbox.StateQueued, 0, true, true},
			{reply(smtpx.StageRcpt, smtpx.ClassRecipient, 550, "no such user"), outbox.StateFailed, 1, false, false},
			{reply(smtpx.StageDot, smtpx.ClassMessage, 554, "spam"), outbox.StateFailed, 1, false, false},
			{reply(smtpx.StageAuth, smtpx.ClassConfig, 535, "bad password"), outbox.StateQueued, 0, true, true},
			{lost(smtpx.StageDial, smtpx.ClassUnreachable), outbox.StateQueued, 0, true, true},
			{lost(smtpx.StageDot, smtpx.ClassAmbiguous), outbox.StateUncertain, 1, true, false},
		} {
			route := fmt.Sprintf("class-%d", i)
			id := q.enqueue(1, func(m *outbox.Message) { m.Route = route })[0]
			s := &sender{send: func(_ context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
				return refuse(env, test.err)
			}}
			relays := []dispatcher.Relay{{Name: route, Sender: s, Routes: []string{route}}} // a pause is shared by name
			flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Relays: relays}, nil))
			m := q.get(id)
			d := m.Deliveries[0]
			if d.State != test.state || d.Attempts != test.attempts || d.Later != test.later || !d.DeferredSince.IsZero() != test.deferred {
				t.Errorf("%s: state %s, attempts %d, later %t, deferred since %v", test.err.Class, d.State, d.Attempts, d.Later, d.DeferredSince)
			}
			if d.Class != string(test.err.Class) || d.Code != test.err.Reply.Code || d.Reply == "" {
				t.Errorf("%s: class %q code %d reply %q are kept", test.err.Class, d.Class, d.Code, d.Reply)
			}
			if len(m.Attempts) != 1 || m.Attempts[0].Stage != string(test.err.Stage) || m.Attempts[0].Attempt != 1 {
				t.Errorf("%s: attempts %+v", test.err.Class, m.Attempts)
			}
		}
	})
}

// A session that is used up costs the message nothing: it goes again at once.
func TestRecycleGoesAgainAtOnce(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		id := q.enqueue(1, nil)[0]
		s, first := &sender{}, failFirst(1, errors.New("first"))
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			if first() != nil {
				return refuse(env, reply(smtpx.StageMail, smtpx.ClassRecycle, 421, "maximum message count per session reached"))
			}
			return s.accept(ctx, env, body)
		}
		report := flush(t, newDispatcher(t, dispatcher.Config{Queue: q}, s))
		if report != (dispatcher.Report{Recycled: 1, Sent: 1}) {
			t.Errorf("report %+v", report)
		}
		if d := q.get(id).Deliveries[0]; d.State != outbox.StateSent || d.Attempts != 1 {
			t.Errorf("%s after %d attempts", d.State, d.Attempts)
		}
	})
}

// Recipients have their own outcomes. Only those that were not accepted are sent to again.
func TestOnlyTheRefusedRecipientsGoAgain(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		id := q.enqueue(1, func(m *outbox.Message) {
			m.To = []outbox.Address{{Address: "a@example.org"}, {Address: "b@example.org"}, {Address: "c@example.org"}}
		})[0]
		s := &sender{}
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			res, err := s.accept(ctx, env, body)
			for i, to := range env.To {
				switch to {
				case "b@example.org":
					res.Outcomes[i] = smtpx.Outcome{Recipient: to, Err: reply(smtpx.StageRcpt, smtpx.ClassTransient, 450, "greylisted")}
				case "c@example.org":
					res.Outcomes[i] = smtpx.Outcome{Recipient: to, Err: reply(smtpx.StageRcpt, smtpx.ClassRecipient, 550, "unknown")}
				}
			}
			return res, err
		}
		flush(t, newDispatcher(t, dispatcher.Config{Queue: q}, s))
		q.wantStates(id, outbox.StateSent, outbox.StateQueued, outbox.StateFailed)

		q.exec("UPDATE outbox_deliveries SET due_at = '" + past + "' WHERE state = 'queued'")
		s.send = nil
		flush(t, newDispatcher(t, dispatcher.Config{Queue: q}, s))
		q.wantStates(id, outbox.StateSent, outbox.StateSent, outbox.StateFailed)
		if got := s.messages()[1].to; !slices.Equal(got, []string{"b@example.org"}) {
			t.Errorf("the second attempt went to %v", got)
		}
	})
}

// A message is uncertain unless it is known to be refused, whatever a sender of the user's own returns.
func TestAnErrorOfNoKindIsUncertain(t *testing.T) {
	t.Parallel()
	q := newQueue(t, openSQLite(t))
	for name, answer := range map[string]func(env smtpx.Envelope) (smtpx.Result, error){
		"an error of no kind": func(smtpx.Envelope) (smtpx.Result, error) { return smtpx.Result{}, errors.New("?") },
		"nothing at all":      func(smtpx.Envelope) (smtpx.Result, error) { return smtpx.Result{}, nil },
		"an outcome of no kind": func(env smtpx.Envelope) (smtpx.Result, error) {
			return smtpx.Result{Outcomes: make([]smtpx.Outcome, len(env.To))}, errors.New("?")
		},
	} {
		id := q.enqueue(1, func(m *outbox.Message) { m.OnUncertain = outbox.Hold })[0]
		s := &sender{send: func(_ context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) { return answer(env) }}
		if report := flush(t, newDispatcher(t, dispatcher.Config{Queue: q}, s)); report.Uncertain != 1 {
			t.Errorf("%s: report %+v", name, report)
		}
		q.wantStates(id, outbox.StateUncertain)
	}
}

func TestTheDatabaseComesBack(t *testing.T) {
	t.Parallel()
	t.Run("while an outcome is recorded", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, openSQLite(t))
		id := q.enqueue(1, nil)[0]
		s := &sender{}
		report := flush(t, newDispatcher(t, dispatcher.Config{Queue: &faulty{Queue: q, settle: failFirst(3, errDatabase)}}, s))
		if report.Sent != 1 || len(s.messages()) != 1 {
			t.Errorf("report %+v, %d copies", report, len(s.messages()))
		}
		q.wantStates(id, outbox.StateSent)
	})
	t.Run("while it is fenced", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, openSQLite(t))
		id := q.enqueue(1, nil)[0]
		s := &sender{}
		report := flush(t, newDispatcher(t, dispatcher.Config{Queue: &faulty{Queue: q, fence: failFirst(1, errDatabase)}}, s))
		if report.Deferred != 1 || len(s.messages()) != 0 {
			t.Errorf("report %+v, %d copies: nothing may be sent that is not fenced", report, len(s.messages()))
		}
		if d := q.get(id).Deliveries[0]; d.State != outbox.StateQueued || d.Attempts != 0 || !strings.Contains(d.Reply, errDatabase.Error()) {
			t.Errorf("%s after %d attempts, %q", d.State, d.Attempts, d.Reply)
		}
	})
	t.Run("while a large body is read", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, openSQLite(t))
		id := q.enqueue(1, func(m *outbox.Message) { m.Text = strings.Repeat("a long letter\n", 20_000) })[0]
		s := &sender{}
		d := newDispatcher(t, dispatcher.Config{Queue: &faulty{Queue: q, body: failFirst(1, errDatabase)}}, s)
		flush(t, d)
		q.wantStates(id, outbox.StateQueued)
		q.exec("UPDATE outbox_deliveries SET due_at = '" + past + "'")
		flush(t, d)
		q.wantStates(id, outbox.StateSent)
		if got := s.messages(); len(got) != 1 || len(got[0].body) < 200_000 {
			t.Errorf("%d messages arrived", len(got))
		}
	})
	t.Run("while it claims", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, openSQLite(t))
		q.enqueue(1, nil)
		s, arrived := &sender{}, make(chan struct{})
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			defer close(arrived)
			return s.accept(ctx, env, body)
		}
		failing := &faulty{Queue: q, claim: failFirst(3, errDatabase)}
		stop := start(t, newDispatcher(t, dispatcher.Config{Queue: failing, Poll: 10 * time.Millisecond}, s))
		<-arrived
		stop()
		failing.claim = failFirst(1, errDatabase)
		if _, err := newDispatcher(t, dispatcher.Config{Queue: failing}, s).Flush(t.Context()); !errors.Is(err, errDatabase) {
			t.Errorf("Flush hides that it could not claim: %v", err)
		}
	})
}

// With a poll of an hour, only the intended wake-ups wake the dispatcher.
func TestWakeUps(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		arrived := make(chan string, 10)
		s := &sender{}
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			arrived <- env.To[0]
			return s.accept(ctx, env, body)
		}
		d := newDispatcher(t, dispatcher.Config{Queue: q, Poll: time.Hour}, s)
		q.enqueue(1, func(m *outbox.Message) {
			m.To[0].Address = "soon@example.org"
			m.NotBefore = time.Now().Add(300 * time.Millisecond)
		})
		start(t, d)
		if to := <-arrived; to != "soon@example.org" {
			t.Errorf("%s arrived first", to)
		}
		q.enqueue(1, func(m *outbox.Message) { m.To[0].Address = "woken@example.org" })
		d.Wake()
		if to := <-arrived; to != "woken@example.org" {
			t.Errorf("%s arrived instead", to)
		}
	})
}

// Messages past their deadline are not sent, even if they were claimed before it.
func TestExpired(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		waiting := q.enqueue(1, func(m *outbox.Message) { m.Expires = time.Now().Add(time.Hour) })[0]
		q.exec("UPDATE outbox_deliveries SET expires_at = '" + past + "'")
		s := &sender{}
		flush(t, newDispatcher(t, dispatcher.Config{Queue: q}, s))
		q.wantStates(waiting, outbox.StateExpired)

		// One worker is busy with the first until the second, already claimed, is past its deadline.
		first := q.enqueue(1, nil)[0]
		second := q.enqueue(1, func(m *outbox.Message) { m.Expires = time.Now().Add(500 * time.Millisecond) })[0]
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			for {
				if d := q.get(second).Deliveries[0]; d.State != outbox.StateSending || !d.ExpiresAt.After(time.Now()) {
					break
				}
			}
			return s.accept(ctx, env, body)
		}
		report := flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Concurrency: 1}, s))
		if report.Sent != 1 || report.Expired != 1 {
			t.Errorf("report %+v", report)
		}
		q.wantStates(first, outbox.StateSent)
		q.wantStates(second, outbox.StateExpired)
	})
}

// A message is given up when it has been due for longer than MaxAge, but never at its first refusal.
func TestMaxAge(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		id := q.enqueue(1, nil)[0]
		q.exec("UPDATE outbox_messages SET created_at = '" + past + "'")
		s := &sender{send: func(_ context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
			return refuse(env, reply(smtpx.StageDot, smtpx.ClassTransient, 451, "try later"))
		}}
		d := newDispatcher(t, dispatcher.Config{Queue: q}, s)
		flush(t, d)
		q.wantStates(id, outbox.StateQueued)
		q.exec("UPDATE outbox_deliveries SET due_at = '" + past + "'")
		flush(t, d)
		q.wantStates(id, outbox.StateFailed)
	})
}

// Several dispatchers on one queue: every message goes once.
func TestDispatchersShareAQueue(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		const n = 300
		ids := q.enqueue(n, nil)
		s := &sender{}
		var wg sync.WaitGroup
		for range 3 {
			d := newDispatcher(t, dispatcher.Config{Queue: q}, s)
			wg.Go(func() {
				if _, err := d.Flush(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		copies := make(map[string]int)
		for _, m := range s.messages() {
			copies[m.body]++
		}
		if len(copies) != n || len(s.messages()) != n {
			t.Errorf("%d messages in %d copies, want %d once each", len(copies), len(s.messages()), n)
		}
		for _, id := range ids {
			q.wantStates(id, outbox.StateSent)
		}
	})
}

// A relay gets only messages of its routes.
func TestRoutes(t *testing.T) {
	t.Parallel()
	q := newQueue(t, openSQLite(t))
	q.enqueue(3, func(m *outbox.Message) { m.Route = "invoices"; m.To[0].Address = "invoice@example.org" })
	q.enqueue(2, nil)
	nobody := q.enqueue(1, func(m *outbox.Message) { m.Route = "unserved" })[0]
	invoices, rest := &sender{}, &sender{}
	flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Relays: []dispatcher.Relay{
		{Name: "invoices", Sender: invoices, Routes: []string{"invoices"}},
		{Name: "rest", Sender: rest, Routes: []string{outbox.DefaultRoute}},
	}}, nil))
	if len(invoices.messages()) != 3 || len(rest.messages()) != 2 {
		t.Errorf("%d invoices and %d others", len(invoices.messages()), len(rest.messages()))
	}
	q.wantStates(nobody, outbox.StateQueued)
}
