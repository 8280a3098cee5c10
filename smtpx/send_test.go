package smtpx_test

import (
	"bytes"
	"testing"

	"github.com/outboxmail/outbox/smtpx/smtptest"
)

func TestSendDeliversWholeMessage(t *testing.T) {
	for name, config := range map[string]smtptest.Config{
		"starttls and auth":       {User: "app", Password: "s3cret:/@ %"},
		"implicit TLS and auth":   {TLS: smtptest.ImplicitTLS, User: "app", Password: "s3cret"},
		"clear to loopback":       {TLS: smtptest.NoTLS, User: "app", Password: "s3cret"},
		"no auth":                 {},
		"AUTH LOGIN":              {User: "app", Password: "s3cret", Mechanisms: []string{"LOGIN"}},
		"without any extension":   {Extensions: []string{}},
		"pipelining and chunking": {Extensions: []string{"PIPELINING", "CHUNKING", "8BITMIME"}},
		"chunking only":           {Extensions: []string{"CHUNKING", "8BITMIME"}},
	} {
		t.Run(name, func(t *testing.T) {
			srv, client := newRelay(t, config)
			body := message(".", "..", ".a", "", "end")
			result, err := client.Send(testContext(t), envelope("b@example.net", "c@example.org"), body)
			if err != nil {
				t.Fatal(err)
			}
			got := srv.Messages()
			if len(got) != 1 {
				t.Fatalf("%d messages arrived, want 1", len(got))
			}
			m := got[0]
			if !bytes.Equal(m.Data, body) {
				t.Errorf("arrived as %q, want %q", m.Data, body)
			}
			if m.From != "a@example.com" || len(m.To) != 2 || m.To[0] != "b@example.net" || m.To[1] != "c@example.org" {
				t.Errorf("envelope from %q to %q", m.From, m.To)
			}
			if m.Session.User != config.User || m.Session.EHLO != "client.example.com" {
				t.Errorf("session %+v", m.Session)
			}
			if (m.Session.TLS == "") != (config.TLS == smtptest.NoTLS) {
				t.Errorf("TLS is %q", m.Session.TLS)
			}
			if result.ProviderID != m.ID || result.Reply.Code != 250 || result.Host != srv.Addr() {
				t.Errorf("result %+v, want id %s from %s", result, m.ID, srv.Addr())
			}
			for i, o := range result.Outcomes {
				if !o.Accepted || o.Err != nil {
					t.Errorf("outcome %d: %+v", i, o)
				}
			}
		})
	}
}
