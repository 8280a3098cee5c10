package dispatcher_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/smtpx"
)

// A message that one relay may have accepted is never sent through another while that relay is configured.
func TestWhatIsUncertainStaysWithItsRelay(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		const n = 40
		q.enqueue(n, nil)
		first, second := &sender{}, &sender{}
		doubt := func(_ context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
			return refuse(env, lost(smtpx.StageDot, smtpx.ClassAmbiguous))
		}
		first.send = doubt
		relays := []dispatcher.Relay{{Name: "first", Sender: first}, {Name: "second", Sender: second}}
		report := flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Relays: relays, Concurrency: 2}, nil))
		if report.Uncertain == 0 {
			t.Fatalf("nothing went through the first relay: %+v", report)
		}
		before := len(second.messages())
		q.exec("UPDATE outbox_deliveries SET due_at = '" + past + "' WHERE state = 'uncertain'")
		first.send = nil
		report2 := flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Relays: relays, Concurrency: 2}, nil))
		if report2.Sent != report.Uncertain || len(first.messages()) != report.Uncertain || len(second.messages()) != before {
			t.Errorf("%d were uncertain; then %+v, %d through the first relay and %d through the second",
				report.Uncertain, report2, len(first.messages()), len(second.messages())-before)
		}
	})
}

// An attempt that sent nothing does not end an older doubt: the message stays with the relay that may have it.
func TestAnAttemptThatSentNothingKeepsTheDoubt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		send  *smtpx.Error // of the second attempt
		fence error
	}{
		{"unreachable", lost(smtpx.StageDial, smtpx.ClassUnreachable), nil},
		{"throttled", reply(smtpx.StageMail, smtpx.ClassThrottled, 450, "slow down"), nil},
		{"session full", reply(smtpx.StageMail, smtpx.ClassRecycle, 421, "maximum message count per session reached"), nil},
		{"not fenced", nil, errDatabase},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			eachQueue(t, func(t *testing.T, q *testQueue) {
				id := q.enqueue(1, nil)[0]
				first, second := &sender{}, &sender{}
				relays := []dispatcher.Relay{{Name: "first", Sender: first}}
				first.send = func(_ context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
					return refuse(env, lost(smtpx.StageDot, smtpx.ClassAmbiguous))
				}
				flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Relays: relays}, nil))
				q.wantStates(id, outbox.StateUncertain)

				relays = append(relays, dispatcher.Relay{Name: "second", Sender: second})
				first.send = nil
				if c.send != nil {
					first.send = func(_ context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
						return refuse(env, c.send)
					}
				}
				failing := &faulty{Queue: q, fence: failFirst(1, c.fence)}
				q.exec("UPDATE outbox_deliveries SET due_at = '" + past + "'")
				flush(t, newDispatcher(t, dispatcher.Config{Queue: failing, Relays: relays}, nil))
				d := q.get(id).Deliveries[0]
				if d.State != outbox.StateQueued || d.Class != "ambiguous" || d.Relay != "first" || !strings.Contains(d.Reply, "still in doubt") {
					t.Fatalf("the delivery is %s, %s at %s: %s", d.State, d.Class, d.Relay, d.Reply)
				}

				first.send = nil
				q.exec("UPDATE outbox_deliveries SET due_at = '" + past + "'")
				flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Relays: relays}, nil))
				q.wantStates(id, outbox.StateSent)
				if len(first.messages()) != 1 || len(second.messages()) != 0 {
					t.Errorf("%d went through the relay that may have it, %d through the other", len(first.messages()), len(second.messages()))
				}
			})
		})
	}
}

// A Sender that sends without calling Envelope.Commit is logged once.
func TestASenderThatDoesNotAsk(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		var log bytes.Buffer
		s := &sender{send: func(_ context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
			return smtpx.Result{Outcomes: []smtpx.Outcome{{Recipient: env.To[0], Accepted: true}}}, nil
		}}
		q.add(3, nil)
		d := newDispatcher(t, dispatcher.Config{Queue: q, Logger: slog.New(slog.NewTextHandler(&log, nil))}, s)
		if report := flush(t, d); report.Sent != 3 {
			t.Errorf("%+v", report)
		}
		if n := strings.Count(log.String(), "without calling Envelope.Commit"); n != 1 {
			t.Errorf("told %d times: %s", n, &log)
		}
	})
}
