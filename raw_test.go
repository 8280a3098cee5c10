package outbox

import (
	"bytes"
	"errors"
	"net/mail"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox/internal/letter"
)

// crlf writes a message of a test with the line breaks of mail.
func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// rawDraft drafts a complete message with a fixed date.
func rawDraft(t *testing.T, m *Message) (*draft, error) {
	t.Helper()
	o := *standard
	o.now = func() time.Time { return sampleDate }
	return o.draft(t.Context(), m, "", o.now())
}

const rawSample = "DKIM-Signature: v=1; h=From : To;\n\tb=abc\nFrom: Ann <ann@Example.org>\n" +
	"To: =?gb2312?b?xOO6ww==?= <bob@example.net>,\n cy@example.net\n" +
	"Subject: =?utf-8?q?caf=C3=A9?=\nDate: Sat, 28 Feb 2026 10:00:00 +0100\nMessage-ID: <odd id?@x>\n\nbody\n"

func TestRawIsKept(t *testing.T) {
	sample := crlf(strings.Replace(rawSample, "odd id?", "odd-id?", 1))
	d, err := rawDraft(t, &Message{Raw: []byte(sample)})
	if err != nil {
		t.Fatal(err)
	}
	if string(d.body) != sample {
		t.Errorf("the message becomes\n%q, was\n%q", d.body, sample)
	}
	if d.messageID != "<odd-id?@x>" || d.subject != "café" || d.sender != "ann@example.org" {
		t.Errorf("Message-ID %q, subject %q, sender %q", d.messageID, d.subject, d.sender)
	}
	if want := []string{"bob@example.net", "cy@example.net"}; !slices.Equal(d.recipients, want) {
		t.Errorf("recipients %q, want %q", d.recipients, want)
	}
}

func TestRawIsCompleted(t *testing.T) {
	in := crlf("From: a@example.org\nbcc: x@example.net\nTo: b@example.net\nResent-Bcc: z@example.net\nBcc: \n y@example.net\nX: 1\n\nbody")
	if _, err := rawDraft(t, &Message{Raw: []byte(in)}); err == nil {
		t.Error("two Bcc fields are accepted")
	}
	in = strings.Replace(in, "Bcc: \r\n y@example.net\r\n", "", 1)
	d, err := rawDraft(t, &Message{Raw: []byte(in)})
	if err != nil {
		t.Fatal(err)
	}
	want := crlf("Date: Sun, 01 Mar 2026 09:05:00 +0000\nMessage-ID: <" + string(d.id) + "@example.org>\n" +
		"From: a@example.org\nTo: b@example.net\nX: 1\n\nbody\n")
	if string(d.body) != want {
		t.Errorf("the message becomes\n%q, want\n%q", d.body, want)
	}
	if want := []string{"b@example.net", "x@example.net"}; !slices.Equal(d.recipients, want) {
		t.Errorf("recipients %q, want %q", d.recipients, want)
	}
}

func TestRawLineBreaks(t *testing.T) {
	unix := "From: a@example.org\nTo: b@example.net\nDate: Sat, 28 Feb 2026 10:00:00 +0100\nMessage-ID: <1@x>\n\none\n.\ntwo\n"
	d, err := rawDraft(t, &Message{Raw: []byte(unix)})
	if err != nil {
		t.Fatal(err)
	}
	if string(d.body) != crlf(unix) {
		t.Errorf("LF becomes %q", d.body)
	}
	d, err = rawDraft(t, &Message{Raw: []byte(strings.TrimSuffix(crlf(unix), "\r\n\r\none\r\n.\r\ntwo\r\n") + "\r\n")})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasSuffix(d.body, []byte("<1@x>\r\n\r\n")) {
		t.Errorf("a header without a body becomes %q", d.body)
	}
}

func TestRawEnvelope(t *testing.T) {
	raw := []byte("From: a@example.org\nTo: b@example.net\nCc: c@example.net\n\nbody\n")
	tests := []struct {
		name       string
		msg        Message
		sender     string
		recipients []string
	}{
		{"of the header", Message{}, "a@example.org", []string{"b@example.net", "c@example.net"}},
		{"given", Message{To: []Address{{Address: "x@example.net"}}}, "a@example.org", []string{"x@example.net"}},
		{"only Bcc given", Message{Bcc: []Address{{Address: "x@example.net"}}}, "a@example.org", []string{"x@example.net"}},
		{"From given", Message{From: Address{Address: "f@example.org"}}, "f@example.org", []string{"b@example.net", "c@example.net"}},
		{"return path given", Message{EnvelopeFrom: "r@example.org"}, "r@example.org", []string{"b@example.net", "c@example.net"}},
		{"null return path", Message{EnvelopeFrom: "<>"}, "", []string{"b@example.net", "c@example.net"}},
	}
	for _, test := range tests {
		test.msg.Raw = raw
		d, err := rawDraft(t, &test.msg)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if d.sender != test.sender || !slices.Equal(d.recipients, test.recipients) {
			t.Errorf("%s: from %q to %q, want %q and %q", test.name, d.sender, d.recipients, test.sender, test.recipients)
		}
	}
}

func TestRawSeveralAuthors(t *testing.T) {
	d, err := rawDraft(t, &Message{Raw: []byte("From: a@example.org, b@example.com\nSender: s@example.net\nTo: c@example.net\n\nx\n")})
	if err != nil {
		t.Fatal(err)
	}
	if d.sender != "s@example.net" || !strings.HasSuffix(d.messageID, "@example.net>") {
		t.Errorf("sender %q, Message-ID %q", d.sender, d.messageID)
	}
}

func TestInvalidRaw(t *testing.T) {
	const head = "From: a@example.org\nTo: b@example.net\n"
	tests := []struct {
		name, raw string
		field     string
	}{
		{"valid", crlf(head + "\nbody\n"), ""},
		{"eight bits in the body", crlf(head+"\ncaf") + "\xe9\r\n", ""},
		{"undisclosed recipients", crlf("From: a@example.org\nTo: undisclosed-recipients:;\nBcc: b@example.net\n\nbody\n"), ""},
		{"empty", "", "Raw"},
		{"no header", crlf("\nbody\n"), "Raw"},
		{"only text", crlf("hello\n"), "Raw"},
		{"mixed line breaks", crlf(head) + "X: y\n\r\nbody\r\n", "Raw"},
		{"bare LF in the body", crlf(head+"\nbody\n") + ".\n", "Raw"},
		{"bare CR in the body", crlf(head+"\nbody\n") + "a\rb\r\n", "Raw"},
		{"bare CR with Unix lines", head + "\nbody\r", "Raw"},
		{"only CR", strings.ReplaceAll(head+"\nbody\n", "\n", "\r"), "Raw"},
		{"smuggled end", crlf(head+"\nbody\n") + "\n.\r\nMAIL FROM:<eve@example.net>\r\n", "Raw"},
		{"NUL in the body", crlf(head + "\na\x00b\n"), "Raw"},
		{"NUL in the header", crlf("X: a\x00b\n" + head + "\nx\n"), "Raw"},
		{"escape in the header", crlf("X: a\x1bb\n" + head + "\nx\n"), "Raw"},
		{"eight bits in the header", crlf("X: caf\xe9\n" + head + "\nx\n"), "Raw"},
		{"UTF-8 in the header", crlf("Subject: café\n" + head + "\nx\n"), "Raw"},
		{"line of 998", crlf(head + "\n" + strings.Repeat("x", 998) + "\n"), ""},
		{"line of 999", crlf(head + "\n" + strings.Repeat("x", 999) + "\n"), "Raw"},
		{"long header line", crlf("X: " + strings.Repeat("x", 999) + "\n" + head + "\nx\n"), "Raw"},
		{"no From", crlf("To: b@example.net\n\nx\n"), "Raw"},
		{"empty From", crlf("From:\nTo: b@example.net\n\nx\n"), "Raw"},
		{"bad From", crlf("From: a\nTo: b@example.net\n\nx\n"), "Raw"},
		{"two From", crlf("From: a@example.org\n" + head + "\nx\n"), "Raw"},
		{"two Subject in two cases", crlf("subject: a\nSUBJECT: b\n" + head + "\nx\n"), "Raw"},
		{"two Content-Type", crlf("Content-Type: text/plain\ncontent-type: text/html\n" + head + "\nx\n"), "Raw"},
		{"several authors without a sender", crlf("From: a@example.org, c@example.org\nTo: b@example.net\n\nx\n"), "Raw"},
		{"two senders", crlf("Sender: a@example.org, c@example.org\n" + head + "\nx\n"), "Raw"},
		{"bad To", crlf("From: a@example.org\nTo: b@\n\nx\n"), "Raw"},
		{"quoted recipient", crlf("From: a@example.org\nTo: \"b c\"@example.net\n\nx\n"), "Raw"},
		{"bad Reply-To", crlf("Reply-To: ,\n" + head + "\nx\n"), "Raw"},
		{"bad date", crlf("Date: yesterday\n" + head + "\nx\n"), "Raw"},
		{"bad Message-ID", crlf("Message-ID: 1@x\n" + head + "\nx\n"), "Raw"},
		{"two ids in one Message-ID", crlf("Message-ID: <1@x> <2@x>\n" + head + "\nx\n"), "Raw"},
		{"empty Message-ID", crlf("Message-ID:\n" + head + "\nx\n"), "Raw"},
		{"space before the colon", crlf("Bcc : eve@example.net\n" + head + "\nx\n"), "Raw"},
		{"no name", crlf(": x\n" + head + "\nx\n"), "Raw"},
		{"line without a colon", crlf(head + "hello\n\nx\n"), "Raw"},
		{"mbox", crlf("From a@example.org Sat Feb 28 10:00:00 2026\n" + head + "\nx\n"), "Raw"},
		{"continuation first", crlf(" x\n" + head + "\nx\n"), "Raw"},
		{"blank continuation", crlf("X: y\n \n" + head + "\nx\n"), "Raw"},
		{"control field", crlf("X-SMTPAPI: {}\n" + head + "\nx\n"), "Raw"},
		{"no recipient", crlf("From: a@example.org\n\nx\n"), "To"},
		{"long header", crlf(strings.Repeat("X-Note: "+strings.Repeat("y", 900)+"\n", 80) + head + "\nx\n"), "Raw"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := check(t, standard, &Message{Raw: []byte(test.raw)}); got != test.field {
				t.Errorf("the error names %q, want %q", got, test.field)
			}
		})
	}
	for name, m := range map[string]*Message{
		"a subject":     {Subject: "x"},
		"a text":        {Text: "x"},
		"HTML":          {HTML: "x"},
		"an attachment": {Attachments: []Attachment{{Name: "x"}}},
		"a header":      {Header: map[string][]string{"X": {"y"}}},
		"a reply-to":    {ReplyTo: []Address{{Address: "a@b.example"}}},
	} {
		m.Raw = []byte(crlf(head + "\nx\n"))
		if got := check(t, standard, m); got != "Raw" {
			t.Errorf("Raw beside %s: the error names %q", name, got)
		}
	}
	if got := check(t, standard, &Message{Raw: make([]byte, 26<<20)}); got != "Message" {
		t.Errorf("a large message: the error names %q", got)
	}
}

func TestRawDoesNotKeepTheCallersBytes(t *testing.T) {
	raw := []byte(crlf("From: a@example.org\nTo: b@example.net\nDate: Sat, 28 Feb 2026 10:00:00 +0100\nMessage-ID: <1@x>\n\nbody\n"))
	d, err := rawDraft(t, &Message{Raw: raw})
	if err != nil {
		t.Fatal(err)
	}
	before := string(d.body)
	for i := range raw {
		raw[i] = 'x'
	}
	if string(d.body) != before {
		t.Error("the stored message changes with the caller's slice")
	}
}

// FuzzRaw checks that a complete message that is accepted is sent as one message to those who were named.
func FuzzRaw(f *testing.F) {
	f.Add([]byte(crlf(rawSample)))
	f.Add([]byte("From: a@example.org\nTo: b@example.net\nBcc: c@example.net\n\n.\nbody"))
	f.Add([]byte("From: a@example.org\r\nTo: b@example.net\r\n\r\n\r\n.\r\nMAIL FROM:<>\r\n"))
	f.Add([]byte("From : a@example.org\r\n: x\r\n y\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := standard.draft(t.Context(), &Message{Raw: data}, "", standard.now())
		if err != nil {
			if invalid := (*InvalidError)(nil); !errors.As(err, &invalid) {
				t.Fatalf("the error is %T: %v", err, err)
			}
			return
		}
		checkWire(t, d.body)
		m, err := mail.ReadMessage(bytes.NewReader(d.body))
		if err != nil {
			t.Fatalf("net/mail: %v\n%q", err, d.body)
		}
		if m.Header["Bcc"] != nil || len(m.Header["From"]) != 1 || len(m.Header["Date"]) != 1 || len(m.Header["Message-Id"]) != 1 {
			t.Fatalf("header %v", m.Header)
		}
		if m.Header.Get("Message-Id") != d.messageID {
			t.Fatalf("Message-ID %q, stored %q", m.Header.Get("Message-Id"), d.messageID)
		}
		again, err := standard.draft(t.Context(), &Message{Raw: d.body, To: []Address{{Address: d.recipients[0]}}}, "", standard.now())
		if err != nil {
			t.Fatalf("what was rendered is refused: %v\n%q", err, d.body)
		}
		if !bytes.Equal(again.body, d.body) {
			t.Fatalf("rendered twice: %q, then %q", d.body, again.body)
		}
	})
}

// checkWire checks what a dot-writer relies on.
func checkWire(t *testing.T, body []byte) {
	t.Helper()
	if !bytes.HasSuffix(body, []byte("\r\n")) || !bytes.Contains(body, []byte("\r\n\r\n")) {
		t.Fatalf("the message is not complete: %q", body)
	}
	if n := bytes.Count(body, []byte("\r\n")); n != bytes.Count(body, []byte("\r")) || n != bytes.Count(body, []byte("\n")) {
		t.Fatalf("a bare CR or LF: %q", body)
	}
	if bytes.IndexByte(body, 0) >= 0 {
		t.Fatalf("a NUL: %q", body)
	}
	for line := range bytes.SplitSeq(body, []byte("\r\n")) {
		if len(line) > letter.MaxLine {
			t.Fatalf("a line of %d bytes", len(line))
		}
	}
}
