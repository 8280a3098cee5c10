package dispatcher_test

import (
	"strings"
	"testing"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/smtpx/smtptest"
	"github.com/outboxmail/outbox/store"
)

// An address outside ASCII goes unchanged through a relay that offers SMTPUTF8, in the envelope and in the header. At other
// relays its recipient fails, and the others get their mail.
func TestAddressesOutsideASCII(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		const address = "用户@xn--r8jz45g.xn--zckzah"
		message := func(m *outbox.Message) {
			m.To, m.Bcc = []outbox.Address{{Name: "用户", Address: "用户@例え.テスト"}}, []outbox.Address{{Address: "ann@example.org"}}
		}
		hidden := func(m *outbox.Message) {
			m.To, m.Bcc = []outbox.Address{{Address: "ann@example.org"}}, []outbox.Address{{Address: "用户@例え.テスト"}}
		}
		server := smtptest.New(t, smtptest.Config{})
		plain := smtptest.New(t, smtptest.Config{Extensions: []string{"8BITMIME", "PIPELINING"}})

		shown := q.enqueue(1, message)[0]
		flush(t, newDispatcher(t, dispatcher.Config{Queue: q}, openRelay(t, server)))
		q.wantStates(shown, outbox.StateSent, outbox.StateSent)
		m := server.Messages()[0]
		if m.To[0] != address || !strings.Contains(string(m.Data), "<"+address+">") {
			t.Errorf("to %q:\n%s", m.To, m.Data)
		}

		bcc, inHeader := q.enqueue(1, hidden)[0], q.enqueue(1, message)[0]
		sender := q.enqueue(1, func(m *outbox.Message) { m.From.Address = "店@example.com" })[0]
		flush(t, newDispatcher(t, dispatcher.Config{Queue: q}, openRelay(t, plain)))
		q.wantStates(bcc, outbox.StateSent, outbox.StateFailed)
		q.wantStates(inHeader, outbox.StateFailed, outbox.StateFailed) // its header needs SMTPUTF8, whoever it goes to
		q.wantStates(sender, outbox.StateFailed)
		for _, d := range []store.Delivery{q.get(bcc).Deliveries[1], q.get(inHeader).Deliveries[0], q.get(sender).Deliveries[0]} {
			if !strings.Contains(d.Reply, "SMTPUTF8") {
				t.Errorf("the reason is %q", d.Reply)
			}
		}
	})
}
