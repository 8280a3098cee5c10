package dispatcher_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"strings"
	"testing"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/store"
)

// A message that is given up leads to one report with the null return path. A report leads to none.
func TestNotice(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		s := &sender{}
		refuseAll := false
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			if refuseAll || env.To[0] == "gone@example.org" {
				e := reply(smtpx.StageRcpt, smtpx.ClassRecipient, 550, "no such user "+strings.Repeat("näher ", 40))
				e.Reply.Enhanced = "5.1.1"
				return refuse(env, e)
			}
			return s.accept(ctx, env, body)
		}
		d := newDispatcher(t, dispatcher.Config{Queue: q, Notice: dispatcher.Notice{
			From: outbox.Address{Name: "Mail", Address: "mailer-daemon@example.com"}, ToSender: true,
			To: []outbox.Address{{Address: "ops@example.com"}}, Route: "reports",
		}}, s)
		id := q.enqueue(1, func(m *outbox.Message) {
			m.To = []outbox.Address{{Address: "gone@example.org"}, {Address: "away@example.org"}}
			m.Subject, m.EnvelopeFrom = "Your örder", "bounces@example.com"
		})[0]
		flush(t, d)
		q.wantStates(id, outbox.StateFailed, outbox.StateFailed)
		sent := s.messages()
		if len(sent) != 1 || len(sent[0].to) != 2 || sent[0].to[0] != "bounces@example.com" || sent[0].to[1] != "ops@example.com" {
			t.Fatalf("sent %+v", sent)
		}
		checkReport(t, []byte(sent[0].body))

		// The null return path leads to no report, so a report that fails leads to none.
		refuseAll = true
		q.enqueue(1, func(m *outbox.Message) { m.EnvelopeFrom = "<>" })
		first := q.enqueue(1, func(m *outbox.Message) { m.To[0].Address = "gone@example.org" })[0]
		report := flush(t, d)
		if report.Failed != 4 || len(s.messages()) != 1 { // one without a report; one, and its report to two
			t.Errorf("report %+v, %d sent", report, len(s.messages()))
		}
		// After a requeue it fails again and is reported again: one report for each failure.
		refuseAll = false
		if _, err := q.Requeue(t.Context(), storeFilterIDs(first)); err != nil {
			t.Fatal(err)
		}
		flush(t, d)
		if len(s.messages()) != 2 {
			t.Errorf("%d reports arrived", len(s.messages()))
		}
	})
}

// checkReport reads a report as a program would (RFC 3462, RFC 3464).
func checkReport(t *testing.T, body []byte) {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Fatalf("%s %v: %v", kind, params, err)
	}
	if m.Header.Get("Auto-Submitted") != "auto-replied" || m.Header.Get("Message-ID") == "" || m.Header.Get("In-Reply-To") == "" {
		t.Errorf("header %v", m.Header)
	}
	r := multipart.NewReader(m.Body, params["boundary"])
	var kinds []string
	var parts []string
	for {
		p, err := r.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		kind, _, _ := mime.ParseMediaType(p.Header.Get("Content-Type"))
		text, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		kinds, parts = append(kinds, kind), append(parts, string(text))
	}
	if strings.Join(kinds, " ") != "text/plain message/delivery-status text/rfc822-headers" {
		t.Fatalf("parts %v", kinds)
	}
	for _, want := range []string{
		"Final-Recipient: rfc822; gone@example.org\r\nAction: failed\r\nStatus: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user",
		"Final-Recipient: rfc822; away@example.org\r\n", "Reporting-MTA: dns; ",
	} {
		if !strings.Contains(parts[1], want) {
			t.Errorf("the status lacks %q:\n%s", want, parts[1])
		}
	}
	if !strings.Contains(parts[0], "Your örder") || !strings.Contains(parts[2], "Subject: ") || strings.Contains(parts[2], "Thank you") {
		t.Errorf("for people: %s\nreturned: %s", parts[0], parts[2])
	}
	for line := range strings.SplitSeq(string(body), "\r\n") {
		if len(line) > 998 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
}

// A report about an encrypted message reveals nothing of it. Without keys it quotes nothing. With keys it is encrypted itself.
func TestNoticeOfASealedMessage(t *testing.T) {
	t.Parallel()
	for _, sealed := range []bool{false, true} {
		q := newQueue(t, openSQLite(t))
		keys := keyRing(t, "k1")
		box, err := outbox.New(outbox.Config{Keys: keys, SealDetails: true})
		if err != nil {
			t.Fatal(err)
		}
		st := q.Store
		if sealed {
			if st, err = store.New(q.db, schema.SQLite, store.Through(box)); err != nil {
				t.Fatal(err)
			}
		}
		s := &sender{}
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			if env.To[0] == "gone@example.org" {
				return refuse(env, reply(smtpx.StageRcpt, smtpx.ClassRecipient, 550, "no such user"))
			}
			return s.accept(ctx, env, body)
		}
		err = outbox.Do(t.Context(), q.db, func(tx *sql.Tx) error {
			_, err := box.Enqueue(t.Context(), tx, &outbox.Message{
				From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "gone@example.org"}},
				Subject: "The hidden subject", Text: "The hidden text.",
			})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		d := newDispatcher(t, dispatcher.Config{Queue: st, Keys: keys, Notice: dispatcher.Notice{
			From: outbox.Address{Address: "mailer-daemon@example.com"}, ToSender: true, Full: true,
		}}, s)
		if r := flush(t, d); r.Failed != 1 || r.Sent != 1 {
			t.Fatalf("report %+v", r)
		}
		for _, row := range texts(t, q.db, "SELECT CAST(body AS text) || subject FROM outbox_messages") {
			if strings.Contains(row, "hidden") {
				t.Errorf("stored in clear:\n%s", row)
			}
		}
		got := s.messages()[0].body
		if told := strings.Contains(got, "Undelivered: The hidden subject") && strings.Contains(got, "The hidden text."); told != sealed {
			t.Errorf("the store encrypts notices: %v; the notice quotes its message: %v\n%s", sealed, told, got)
		}
		if !strings.Contains(got, "gone@example.org") {
			t.Errorf("the notice does not name the recipient:\n%s", got)
		}
	}
}
