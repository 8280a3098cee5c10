package outboxtest

import (
	"context"
	"log/slog"

	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/keyring"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// Inbox is an SMTP server on loopback, with TLS and a password. It keeps the messages that it accepts. It is a
// [dispatcher.Sender]: messages go there as they would go to a relay. URL, Send and Clear may be called from any goroutine, the others
// from that of the test.
type Inbox struct {
	t      TB
	server *smtptest.Server
	client *smtpx.Client
}

// NewInbox starts an inbox. It stops at the end of the test.
func NewInbox(t TB) *Inbox {
	t.Helper()
	server := smtptest.New(t, smtptest.Config{User: "app", Password: "secret"})
	client, err := smtpx.Open(server.URL())
	if err != nil {
		t.Fatalf("open the inbox: %v", err)
		return nil
	}
	t.Cleanup(func() { _ = client.Close() }) // before the server; it returns no error
	return &Inbox{t: t, server: server, client: client}
}

// URL returns the address of the inbox for [smtpx.Open]. Configure an application with it that runs a dispatcher of its own.
func (in *Inbox) URL() string { return in.server.URL() }

// Send sends a message to the inbox; see [smtpx.Client.Send].
func (in *Inbox) Send(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
	return in.client.Send(ctx, env, body)
}

// Mail returns all messages that arrived, in the order of their arrival.
func (in *Inbox) Mail() []*Mail {
	in.t.Helper()
	var list []*Mail
	for _, m := range in.server.Messages() {
		parsed, err := parse(m.Data, m.From, m.To)
		if err != nil {
			in.t.Fatalf("a message arrived that does not parse: %v\n%s", err, m.Data)
			return nil
		}
		list = append(list, parsed)
	}
	return list
}

// Search returns the messages that arrived and fit, in the order of their arrival.
func (in *Inbox) Search(want Match) []*Mail {
	in.t.Helper()
	return want.filter(in.Mail())
}

// Require returns the one message that arrived and fits. It fails the test if none or more than one fits, and then says of
// every message why it does not fit.
func (in *Inbox) Require(want Match) *Mail {
	in.t.Helper()
	return want.one(in.t, in.Mail(), "delivered")
}

// Wait returns the first message that fits, as soon as it has arrived. It is for tests in which a dispatcher runs by itself. It
// fails the test if ctx ends first, and then lists the messages that did arrive.
func (in *Inbox) Wait(ctx context.Context, want Match) *Mail {
	in.t.Helper()
	for {
		seen := in.server.Count()
		list := in.Mail()
		if found := want.filter(list); len(found) > 0 {
			return found[0]
		}
		if _, err := in.server.WaitMessages(ctx, seen+1); err != nil {
			in.t.Fatalf("waiting for a message: %v%s", err, want.describe(list))
			return nil
		}
	}
}

// Clear forgets the messages that arrived.
func (in *Inbox) Clear() { in.server.Clear() }

// Deliver sends the messages that are due in a queue, such as a *store.Store. It sends them to an [Inbox], a [Relay] or another
// sender, and returns when nothing is due. A deferred message stays deferred; [Advance] makes it due. Deliver fails the test if the
// queue fails. The report counts what happened to the deliveries.
//
// It serves every route with the default settings. To test settings of your own, call Flush of your own [dispatcher.Dispatcher].
func Deliver(t TB, queue dispatcher.Queue, to dispatcher.Sender) dispatcher.Report {
	t.Helper()
	return DeliverWithKeys(t, queue, to, nil)
}

// DeliverWithKeys is [Deliver] for encrypted messages. The keys are those of [dispatcher.Config].
func DeliverWithKeys(t TB, queue dispatcher.Queue, to dispatcher.Sender, keys *keyring.Ring) dispatcher.Report {
	t.Helper()
	d, err := dispatcher.New(dispatcher.Config{
		Queue:  queue,
		Keys:   keys,
		Relays: []dispatcher.Relay{{Name: "outboxtest", Sender: to}},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatalf("deliver: %v", err)
		return dispatcher.Report{}
	}
	report, err := d.Flush(t.Context())
	if err != nil {
		t.Fatalf("deliver: %v", err)
	}
	return report
}
