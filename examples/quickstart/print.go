package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/mail"
	"strings"

	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/smtpx/smtptest"
	"github.com/outboxmail/outbox/store"
)

// printer writes the report of the example.
type printer struct{ out io.Writer }

func (p printer) linef(format string, args ...any) { _, _ = fmt.Fprintf(p.out, format+"\n", args...) }

func (p printer) opening(database, relay string) {
	p.linef("database  %s", database)
	p.linef("relay     %s", relay)
}

func (p printer) orders(kept, lost placed) {
	p.linef("\n1. Two orders, each with its e-mail in one transaction")
	p.linef("   order %d  COMMIT    the order and its e-mail are stored", kept.number)
	p.linef("   order %d  ROLLBACK  %v: neither is stored", lost.number, errDeclined)
}

func (p printer) report(r dispatcher.Report) {
	p.linef("\n2. The dispatcher delivers what is due")
	p.linef("   sent %d, deferred %d, failed %d, uncertain %d", r.Sent, r.Deferred, r.Failed, r.Uncertain)
}

// arrived prints the mail at the demo server, or the answer of a real relay.
func (p printer) arrived(messages []smtptest.Message, stored *store.Message) {
	if len(messages) == 0 {
		d := stored.Deliveries[0]
		p.linef("\n3. The relay accepted it")
		p.linef("   To:         %s", d.Recipient)
		p.linef("   Subject:    %s", stored.Subject)
		p.linef("   Message-ID: %s", stored.MessageID)
		if d.ProviderID != "" {
			p.linef("   its name for it: %s", d.ProviderID)
		}
		return
	}
	p.linef("\n3. What arrived (%d)", len(messages))
	for _, m := range messages {
		p.linef("   over %s, signed in as %q", m.Session.TLS, m.Session.User)
		parsed, err := mail.ReadMessage(bytes.NewReader(m.Data))
		if err != nil {
			p.linef("   it cannot be read: %v", err)
			continue
		}
		p.linef("")
		for _, name := range []string{"From", "To", "Subject", "Date", "Message-ID"} {
			p.linef("   | %-11s %s", name+":", parsed.Header.Get(name))
		}
		p.linef("   |")
		body, err := io.ReadAll(parsed.Body)
		if err != nil {
			p.linef("   | its text cannot be read: %v", err)
			continue
		}
		for line := range strings.Lines(string(body)) {
			p.linef("   | %s", strings.TrimRight(line, "\r\n"))
		}
	}
}

// words returns the relay's answer, or the reason why there is none.
func words(d store.Delivery) string {
	if d.Code == 0 {
		return d.Reply
	}
	return fmt.Sprintf("%d %s", d.Code, d.Reply)
}

// proof checks that the rolled-back order left nothing in the database or at the demo server.
func (p printer) proof(ctx context.Context, s *shop, r *relay, lost placed) error {
	orders, err := s.count(ctx, `SELECT count(*) FROM quickstart_orders WHERE number = $1`, lost.number)
	if err != nil {
		return err
	}
	messages, err := s.count(ctx, `SELECT count(*) FROM outbox_messages WHERE idempotency_key = $1`, orderKey(lost.number))
	if err != nil {
		return err
	}
	p.linef("\n4. And order %d, which was rolled back?", lost.number)
	p.linef("   orders in the database    %d", orders)
	p.linef("   messages in the database  %d", messages)
	mails := 0
	if r.demo != nil {
		for _, m := range r.demo.Messages() {
			if m.MessageID == lost.receipt.MessageID {
				mails++
			}
		}
		p.linef("   mails at the relay        %d", mails)
	}
	if orders+messages+mails != 0 {
		return fmt.Errorf("order %d was rolled back and is still there", lost.number)
	}
	p.linef("   Its e-mail does not exist: it was rolled back with the order.")
	return nil
}
