package outboxtest_test

import (
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/outboxtest"
	"github.com/outboxmail/outbox/store"
)

// reminder is a message to one recipient, for later.
func reminder(in time.Duration) *outbox.Message {
	return &outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}},
		Subject: "Your appointment", Text: "Tomorrow at ten.", NotBefore: time.Now().Add(in), Tags: []string{"reminder"},
	}
}

func cancel(t *testing.T, db database, id outbox.ID) {
	t.Helper()
	result, err := outbox.Cancel(t.Context(), outbox.InTx(struct{ outbox.Execer }{db}), id)
	if err != nil || result.Cancelled == 0 {
		t.Fatalf("cancel: %+v, %v", result, err)
	}
}

// A test of a cancellation passes after the cancellation, and fails for an application that forgot it.
func TestCancellation(t *testing.T) {
	onBoth(t, func(t *testing.T, db database, _ *store.Store) {
		id := enqueue(t, db, reminder(72*time.Hour))
		cancelled := outboxtest.Match{Tag: "reminder", State: outbox.StateCancelled}
		waits := outboxtest.Match{Tag: "reminder", State: outbox.StateQueued}
		outboxtest.RequireEnqueued(t, db, waits)
		outboxtest.RequireEnqueued(t, db, outboxtest.Match{State: outboxtest.Scheduled})
		fails(t, func(t outboxtest.TB) { outboxtest.RequireEnqueued(t, db, cancelled) },
			"0 messages of this kind were enqueued", `to ann@example.org (scheduled): State "scheduled" is not "cancelled"`)
		fails(t, func(t outboxtest.TB) { outboxtest.RequireNotEnqueued(t, db, waits) }, "1 message of this kind was enqueued", "(scheduled): fits")

		cancel(t, db, id)
		m := outboxtest.RequireEnqueued(t, db, cancelled)
		if len(m.Deliveries) != 1 || m.Deliveries[0].Recipient != "ann@example.org" || m.Deliveries[0].Shown() != outbox.StateCancelled {
			t.Errorf("deliveries %+v", m.Deliveries)
		}
		outboxtest.RequireNotEnqueued(t, db, waits)
		outboxtest.RequireNotEnqueued(t, db, outboxtest.Match{State: outboxtest.Scheduled})
		fails(t, func(t outboxtest.TB) { outboxtest.RequireEnqueued(t, db, waits) }, `State "cancelled" is not "queued"`)
		fails(t, func(t outboxtest.TB) { outboxtest.RequireNotEnqueued(t, db, outboxtest.Match{Tag: "reminder"}) }, "(cancelled): fits")
	})
}

// A message to several has its state only where all of them have it, and lacks it only where none has.
func TestStateOfSeveralRecipients(t *testing.T) {
	onBoth(t, func(t *testing.T, db database, queue *store.Store) {
		msg := reminder(0)
		msg.To = []outbox.Address{{Address: "ann@example.org"}, {Address: "bob@example.org"}, {Address: "eva@example.org"}}
		id := enqueue(t, db, msg)
		relay := new(outboxtest.Relay)
		relay.Refuse("bob@example.org", outboxtest.ErrNoSuchUser)
		relay.Refuse("eva@example.org", outboxtest.ErrBusy)
		outboxtest.Deliver(t, queue, relay)
		cancel(t, db, id) // too late for all but eva

		for _, state := range []outbox.State{outbox.StateSent, outbox.StateFailed, outbox.StateCancelled} {
			match := outboxtest.Match{State: state}
			fails(t, func(t outboxtest.TB) { outboxtest.RequireEnqueued(t, db, match) },
				"(ann@example.org sent, bob@example.org failed, eva@example.org cancelled)", "is not")
			fails(t, func(t outboxtest.TB) { outboxtest.RequireNotEnqueued(t, db, match) }, "fits")
		}
		outboxtest.RequireNotEnqueued(t, db, outboxtest.Match{State: outbox.StateQueued})
		outboxtest.RequireEnqueued(t, db, outboxtest.Match{To: "Ann@example.org", State: outbox.StateSent})
		outboxtest.RequireEnqueued(t, db, outboxtest.Match{To: "eva@example.org", State: outbox.StateCancelled})
		outboxtest.RequireNotEnqueued(t, db, outboxtest.Match{To: "eva@example.org", State: outbox.StateSent})
		m := outboxtest.RequireEnqueued(t, db, outboxtest.Match{To: "bob@example.org", State: outbox.StateFailed})
		if d := m.Deliveries[1]; d.Attempts != 1 || d.Code != 550 || d.Class != "recipient" || d.Reply != "5.1.1 no such user" && d.Reply != "no such user" {
			t.Errorf("the refused delivery is %+v", d)
		}
		if found := outboxtest.Search(t, db, outboxtest.Match{Tag: "reminder"}); len(found) != 1 {
			t.Errorf("%d messages found, want 1", len(found))
		}
	})
}

func TestEveryStateIsMatched(t *testing.T) {
	onBoth(t, func(t *testing.T, db database, queue *store.Store) {
		relay := new(outboxtest.Relay)
		for _, test := range []struct {
			state  outbox.State
			msg    func(*outbox.Message)
			before func(outbox.ID)
		}{
			{outboxtest.Scheduled, func(m *outbox.Message) { m.NotBefore = time.Now().Add(time.Hour) }, func(outbox.ID) {}},
			{outboxtest.Deferred, nil, func(outbox.ID) { relay.Fail(1, outboxtest.ErrBusy) }},
			{outbox.StateFailed, nil, func(outbox.ID) { relay.Fail(1, outboxtest.ErrSpam) }},
			{outbox.StateSent, nil, func(outbox.ID) {}},
			{outbox.StateUncertain, func(m *outbox.Message) { m.OnUncertain = outbox.Hold }, func(outbox.ID) { relay.LoseReplies(1) }},
			{outbox.StateCancelled, nil, func(id outbox.ID) { cancel(t, db, id) }},
			{outbox.StateHeld, nil, func(id outbox.ID) {
				if _, err := queue.Hold(t.Context(), store.Filter{IDs: []outbox.ID{id}}); err != nil {
					t.Fatal(err)
				}
			}},
			{outbox.StateSuppressed, func(m *outbox.Message) { m.To[0].Address = "gone@example.org" }, func(outbox.ID) {
				if _, err := queue.Suppress(t.Context(), store.Suppression{Address: "gone@example.org", Reason: "left", Source: "test"}); err != nil {
					t.Fatal(err)
				}
			}},
		} {
			msg := reminder(0)
			msg.NotBefore, msg.Key, msg.Metadata = time.Time{}, string(test.state), map[string]string{"state": string(test.state)}
			if test.msg != nil {
				test.msg(msg)
			}
			test.before(enqueue(t, db, msg))
			outboxtest.Deliver(t, queue, relay)
			m := outboxtest.RequireEnqueued(t, db, outboxtest.Match{State: test.state})
			if m.Metadata["state"] != string(test.state) {
				t.Errorf("state %s fits the message of %s", test.state, m.Metadata["state"])
			}
			if freed := test.state == outbox.StateCancelled; (m.Key == "") != freed {
				t.Errorf("state %s: the key is %q", test.state, m.Key)
			}
			relay.Reset()
		}
	})
}

// A word that is no state is a mistake in the test. It must not pass as "nothing is in this state".
func TestUnknownStateFails(t *testing.T) {
	app, _ := open(t)
	for _, state := range []outbox.State{"canceled", "Queued", "waiting", " "} {
		match := outboxtest.Match{State: state}
		fails(t, func(t outboxtest.TB) { outboxtest.RequireNotEnqueued(t, app.db, match) }, "is not a state", "cancelled")
		fails(t, func(t outboxtest.TB) { outboxtest.RequireEnqueued(t, app.db, match) }, "is not a state")
		fails(t, func(t outboxtest.TB) { outboxtest.Search(t, app.db, match) }, "is not a state")
	}
}
