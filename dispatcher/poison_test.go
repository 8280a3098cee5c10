package dispatcher_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// poisoned is a sender that ends the process at the message to one recipient, as a fault in the handling of it would.
type poisoned struct {
	dispatcher.Sender

	recipient string
}

func (p poisoned) Send(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
	if p.recipient != "" && slices.Contains(env.To, p.recipient) {
		os.Exit(3)
	}
	return p.Sender.Send(ctx, env, body)
}

// One message kills every process that handles it. All others are sent, and it ends held, with the reason, after five deaths.
func TestAMessageThatKillsItsProcess(t *testing.T) {
	t.Parallel()
	const bad, others = "bad@example.org", 20
	eachSite(t, smtptest.StageOther, smtptest.Action{}, func(t *testing.T, s *crashSite) {
		s.enqueue(others/2, nil)
		id := s.enqueue(1, func(m *outbox.Message) { m.To[0].Address = bad })[0]
		s.enqueue(others/2, nil)
		deaths := 0
		for s.get(id).Deliveries[0].State != outbox.StateHeld {
			if deaths == 10 {
				t.Fatalf("after %d deaths the message is %+v", deaths, s.get(id).Deliveries[0])
			}
			p := spawn(t, child{Database: s.database, Relay: s.relay.URL(), Poison: bad})
			if _ = p.cmd.Wait(); p.cmd.ProcessState.ExitCode() != 3 {
				t.Fatalf("the child ended by itself: %v: %s", p.cmd.ProcessState, &p.stderr)
			}
			deaths++
			s.exec("UPDATE outbox_claims SET lease_until = '" + past + "'")
			s.pass(t)
		}
		if d := s.get(id).Deliveries[0]; deaths != 5 || d.Lapses != 5 || !strings.HasSuffix(d.Reply, "lapsed, for the 5. time in a row") {
			t.Errorf("after %d deaths the message is held: %+v", deaths, d)
		}
		spawn(t, child{Database: s.database, Relay: s.relay.URL(), Poison: bad})
		until(t, "the others are sent", func() bool { s.pass(t); return s.inState(outbox.StateSent) == others })
		if d := s.get(id).Deliveries[0]; d.State != outbox.StateHeld {
			t.Errorf("the message is %s at the end", d.State)
		}
	})
}

// pass takes lapsed claims back and lets the time pass for which anything waits.
func (s *crashSite) pass(t *testing.T) {
	t.Helper()
	if _, err := s.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.exec("UPDATE outbox_deliveries SET due_at = '" + past + "' WHERE state IN ('queued', 'uncertain')")
}
