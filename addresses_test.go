package outbox_test

import (
	"bytes"
	"net/mail"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// TestAddressesOnTheWire sends to addresses of every accepted form over a socket. The server, which reads quotes and brackets
// strictly, must find each as one path without parameters, and a reader of the header the same address.
func TestAddressesOnTheWire(t *testing.T) {
	server := smtptest.New(t, smtptest.Config{})
	client, err := smtpx.Open(server.URL("tls=none"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	for in, want := range map[string]string{
		"ann@Example.org":                               "ann@example.org",
		`"ann"@example.org`:                             "ann@example.org",
		`"john doe"@example.org`:                        `"john doe"@example.org`,
		`"a..b."@docomo.ne.jp`:                          `"a..b."@docomo.ne.jp`,
		`"very.unusual.@"@example.com`:                  `"very.unusual.@"@example.com`,
		`"a@b"@example.org`:                             `"a@b"@example.org`,
		`"\a\"\\"@example.org`:                          `"a\"\\"@example.org`,
		`"(),:;[]"@example.org`:                         `"(),:;[]"@example.org`,
		`" "@example.org`:                               `" "@example.org`,
		"o'hara+x=y@bücher.example":                     "o'hara+x=y@xn--bcher-kva.example",
		strings.Repeat("l", 81) + "@example.org":        strings.Repeat("l", 81) + "@example.org",
		strings.Repeat("l", 486) + "@example.org":       strings.Repeat("l", 486) + "@example.org",
		`"` + strings.Repeat("l ", 242) + `"@a.example`: `"` + strings.Repeat("l ", 242) + `"@a.example`,
	} {
		r, err := outbox.Render(&outbox.Message{
			From: outbox.Address{Name: "Shop", Address: in}, To: []outbox.Address{{Address: in}}, ReplyTo: []outbox.Address{{Name: "Jörg", Address: in}},
			EnvelopeFrom: in, Text: "x",
		}, "", time.Time{})
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if r.Sender != want || !slices.Equal(r.Recipients, []string{want}) {
			t.Errorf("%s: from %s to %s, want %s", in, r.Sender, r.Recipients, want)
		}
		server.Clear()
		result, err := client.Send(t.Context(), smtpx.Envelope{From: r.Sender, To: r.Recipients}, r.Body)
		if err != nil {
			t.Errorf("%s: %v, %+v", in, err, result)
			continue
		}
		messages := server.Messages()
		if len(messages) != 1 {
			t.Fatalf("%s: %d messages", in, len(messages))
		}
		got := messages[0]
		if got.From != want || !slices.Equal(got.To, []string{want}) || strings.TrimSpace(strings.Join(got.RcptParams, "")) != "" {
			t.Errorf("%s: the server reads from %s to %q with %q, want %s", in, got.From, got.To, got.RcptParams, want)
		}
		m, err := mail.ReadMessage(bytes.NewReader(r.Body))
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"From", "To", "Reply-To"} {
			list, err := m.Header.AddressList(key)
			if err != nil || len(list) != 1 || (&mail.Address{Address: list[0].Address}).String() != "<"+want+">" {
				t.Errorf("%s: %s is read as %v (%v)", in, key, list, err)
			}
		}
	}
}

// TestSmuggledAddresses shows that what could end a path, a line or a header field is refused in every field.
func TestSmuggledAddresses(t *testing.T) {
	for _, in := range []string{
		`"a> SIZE=1"@example.org`, `"<x>"@example.org`, `"a\>b"@example.org`, "\"a\r\nRSET\"@example.org", "\"a\nb\"@example.org",
		"\"a\\\r\\\nb\"@example.org", "\"a\x00\"@example.org", "\"a\t\"@example.org", `"a"> <b@example.org`, `"a@example.org`, `a"@example.org`,
		`"a"b@example.org`, `""@example.org`, `"a"@b@example.org`, `"\"@example.org`, "\"a\u2028b\"@example.org", "\"\u202eb\"@example.org",
	} {
		for name, m := range map[string]*outbox.Message{
			"To":           {To: []outbox.Address{{Address: in}}},
			"ReplyTo":      {ReplyTo: []outbox.Address{{Address: in}}},
			"EnvelopeFrom": {EnvelopeFrom: in},
			"From":         {From: outbox.Address{Address: in}},
		} {
			if m.From.Address == "" {
				m.From.Address = "shop@example.com"
			}
			if m.To == nil {
				m.To = []outbox.Address{{Address: "ann@example.org"}}
			}
			m.Text = "x"
			if r, err := outbox.Render(m, "", time.Time{}); err == nil {
				t.Errorf("%s %q is accepted: from %q to %q", name, in, r.Sender, r.Recipients)
			}
		}
	}
}

// TestLongLocalParts shows that local parts as senders of bounces and replies use them are accepted everywhere (RFC 5321
// §4.5.3.1: 64 bytes is what must be received, not the most that may be sent).
func TestLongLocalParts(t *testing.T) {
	shop, ann := outbox.Address{Address: "shop@example.com"}, []outbox.Address{{Address: "ann@example.org"}}
	for _, long := range []string{
		"reply+vmfhl&j62fr&&" + strings.Repeat("2b6c0c3fb5", 6) + "c3@mg1.example.com",
		"bounce_9999_firstname.lastname=averylongcompanyname.example.com_2021-04-1614-30-24@bounces.example.com",
		"SRS0=HHH=TT=sender.example=" + strings.Repeat("x", 80) + "@forward.example",
		"prvs=0123456789=" + strings.Repeat("long.name.", 10) + "z@example.com",
		strings.Repeat("a", 65) + "@example.com",
		strings.Repeat("ü", 40) + "@example.com",
		`"` + strings.Repeat("long name ", 12) + `"@example.com`,
	} {
		for name, m := range map[string]*outbox.Message{
			"To":           {From: shop, To: []outbox.Address{{Address: long}}, Text: "x"},
			"From":         {From: outbox.Address{Name: "Jörg", Address: long}, To: ann, Text: "x"},
			"ReplyTo":      {From: shop, To: ann, ReplyTo: []outbox.Address{{Address: long}}, Text: "x"},
			"EnvelopeFrom": {From: shop, To: ann, EnvelopeFrom: long, Text: "x"},
			"Header":       {From: shop, To: ann, Header: map[string][]string{"Errors-To": {long}}, Text: "x"},
			"Unsubscribe":  {From: shop, To: ann, Unsubscribe: outbox.Unsubscribe{Mailto: "mailto:" + url.PathEscape(long)}, Text: "x"},
			"Raw":          {Raw: []byte("From: shop@example.com\nReply-To: " + long + "\nTo: " + long + "\n\nx\n")},
		} {
			if name == "Raw" && strings.Contains(long, "ü") {
				continue
			}
			if _, err := outbox.Render(m, "", time.Time{}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestFieldsWithAGrammar shows that the addresses of extra fields stay readable beside names in other scripts.
func TestFieldsWithAGrammar(t *testing.T) {
	r, err := outbox.Render(&outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}}, Text: "x",
		Header: map[string][]string{
			"List-Id":                     {"Bücher & Mehr <buecher.example.com>"},
			"Disposition-Notification-To": {"Jörg Müller <joerg@example.com>"},
			"Errors-To":                   {"Büro <errors@example.com>"},
			"List-Post":                   {"<mailto:büro@example.com> (Büro)"},
			"Sender":                      {"Jürgen <j@example.com>"},
		},
	}, "", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mail.ReadMessage(bytes.NewReader(r.Body))
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]mail.Address{
		"Disposition-Notification-To": {Name: "Jörg Müller", Address: "joerg@example.com"},
		"Errors-To":                   {Name: "Büro", Address: "errors@example.com"},
		"Sender":                      {Name: "Jürgen", Address: "j@example.com"},
	} {
		if list, err := m.Header.AddressList(key); err != nil || len(list) != 1 || *list[0] != want {
			t.Errorf("%s is read as %v (%v)", key, list, err)
		}
	}
	for key, want := range map[string]string{"List-Id": " <buecher.example.com>", "List-Post": "<mailto:b%C3%BCro@example.com> ("} {
		if !strings.Contains(m.Header.Get(key), want) {
			t.Errorf("%s is %s", key, m.Header.Get(key))
		}
	}
}
