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
		{"quoted recipient", crlf("From: a@example.org\nTo: \"b c\"@example.net\n\nx\n"), ""},
		{"quoted recipient with an angle bracket", crlf("From: a@example.org\nTo: \"b> SIZE=1\"@example.net\n\nx\n"), "Raw"},
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

// TestRawReads shows what of RFC 5322 is understood in the fields that become the envelope: comments and groups wherever they may
// stand, and the obsolete syntax of §4.
func TestRawReads(t *testing.T) {
	for _, test := range []struct{ name, head, sender, recipients string }{
		{"§A.1.3", "From: Pete <pete@silly.example>\nTo: A Group:Ed Jones <c@a.test>,joe@where.test,John <jdoe@one.test>;\n" +
			"Cc: Undisclosed recipients:;\nDate: Thu, 13 Feb 1969 23:32:54 -0330\nMessage-ID: <testabcd.1234@silly.example>\n",
			"pete@silly.example", "c@a.test joe@where.test jdoe@one.test"},
		{"§A.5", "From: Pete(A nice \\) chap) <pete(his account)@silly.test(his host)>\nTo:A Group(Some people)\n     :Chris Jones <c@(Chris's host.)public.example>,\n" +
			"         joe@example.org,\n  John <jdoe@one.test> (my dear friend); (the end of the group)\n" +
			"Cc:(Empty list)(start)Hidden recipients  :(nobody(that I know))  ;\nDate: Thu,\n      13\n        Feb\n          1969\n      23:32\n" +
			"               -0330 (Newfoundland Time)\nMessage-ID:              <testabcd.1234@silly.test>\n",
			"pete@silly.test", "c@public.example joe@example.org jdoe@one.test"},
		{"§A.6.1", "From: Joe Q. Public <john.q.public@example.com>\nTo: Mary Smith <@node.test:mary@example.net>, , jdoe@test  . example\n" +
			"Date: Tue, 1 Jul 2003 10:52:37 +0200\nMessage-ID: <5678.21-Nov-1997@example.com>\n",
			"john.q.public@example.com", "mary@example.net jdoe@test.example"},
		{"§A.6.3", "From: John Doe <jdoe@machine(comment).  example>\nTo: Mary Smith\n \t         <mary@example.net>\n" +
			"Date: Fri, 21 Nov 1997 09(comment):   55  :  06 -0600\nMessage-ID: (a) <1234   @   local(blah)  .machine .example> (b)\n",
			"jdoe@machine.example", "mary@example.net"},
		{"routes", "From: a@example.org\nTo: <@a.test,@b.test:c@example.net>, x <@a.test:d@example.net>\n", "a@example.org", "c@example.net d@example.net"},
		{"encoded words", "From: =?utf-8?q?J=C3=B6rg?= <a@example.org>\nTo: =?x-unknown?q?x?= =?y?b?eA==?= <b@example.net>\n", "a@example.org", "b@example.net"},
		{"quotes", "From: \"a, b\" <a@example.org>\nTo: \"x <y>\" <\"b c\"@example.net>, \"d\"@example.net\n", "a@example.org", `"b c"@example.net d@example.net`},
		{"quoted word of a local part", "From: a@example.org\nTo: a.\"b c\".d@example.net\n", "a@example.org", `"a.b c.d"@example.net`},
		{"stray dots", "From: a..b.@docomo.ne.jp\nTo: .c@docomo.ne.jp\n", `"a..b."@docomo.ne.jp`, `".c"@docomo.ne.jp`},
		{"name with dots and brackets", "From: Dr. A. [EU] <a@example.org>\nTo: B.C. <b@example.net>\n", "a@example.org", "b@example.net"},
		{"name without quotes and a comment as name", "From: a@example.org (Ann (A.))\nTo: (x) b@example.net (y), (z)\n c@example.net\n", "a@example.org", "b@example.net c@example.net"},
		{"long", "From: a@example.org\nTo: " + strings.Repeat("l", 81) + "@example.net\n", "a@example.org", strings.Repeat("l", 81) + "@example.net"},
		{"address as a name", "From: a@example.org <a@example.org>\nTo: b@example.net <b@example.net>, x@y (c) <\"d\"@example.net>\n",
			"a@example.org", "b@example.net d@example.net"},
		{"empty places", "From: a@example.org\nTo: ,, b@example.net,\n", "a@example.org", "b@example.net"},
		{"groups next to addresses", "From: a@example.org\nTo: x@example.net, Team: y@example.net, z@example.net;, w@example.net\n",
			"a@example.org", "x@example.net y@example.net z@example.net w@example.net"},
	} {
		d, err := rawDraft(t, &Message{Raw: []byte(test.head + "\nbody\n")})
		switch {
		case err != nil:
			t.Errorf("%s: %v", test.name, err)
		case d.sender != test.sender || strings.Join(d.recipients, " ") != test.recipients:
			t.Errorf("%s: from %s to %q", test.name, d.sender, d.recipients)
		case !strings.HasSuffix(string(d.body), crlf(test.head+"\nbody\n")):
			t.Errorf("%s becomes %q", test.name, d.body)
		}
	}
}

// TestRawFieldsBesideTheEnvelope shows that only what becomes the envelope is held to its rules.
func TestRawFieldsBesideTheEnvelope(t *testing.T) {
	to := []Address{{Address: "x@example.net"}}
	literal, long := "a@[192.0.2.1]", strings.Repeat("l", 600)+"@example.net"
	for _, test := range []struct {
		name  string
		msg   Message
		raw   string
		field string // that the error names, empty for none
		word  string // of the error
	}{
		{"long Reply-To", Message{}, "From: a@example.org\nReply-To: " + strings.Repeat("l", 81) + "@example.net\nTo: b@example.net\n", "", ""},
		{"very long Reply-To", Message{}, "From: a@example.org\nReply-To: " + long + "\nTo: b@example.net\n", "", ""},
		{"Reply-To with a literal", Message{}, "From: a@example.org\nReply-To: " + literal + "\nTo: b@example.net\n", "", ""},
		{"Reply-To with brackets in quotes", Message{}, "From: a@example.org\nReply-To: \"<x>\"@example.net\nTo: b@example.net\n", "", ""},
		{"Reply-To with an underscore", Message{}, "From: a@example.org\nReply-To: a@my_host\nTo: b@example.net\n", "", ""},
		{"Sender beside one From", Message{}, "From: a@example.org\nSender: " + literal + "\nTo: b@example.net\n", "", ""},
		{"unreadable Reply-To", Message{}, "From: a@example.org\nReply-To: <a\nTo: b@example.net\n", "Raw", "Reply-To"},
		{"To with a literal", Message{}, "From: a@example.org\nTo: " + literal + "\n", "Raw", "give the recipients"},
		{"To with a literal, recipients given", Message{To: to}, "From: a@example.org\nTo: " + literal + "\n", "", ""},
		{"long Cc", Message{}, "From: a@example.org\nTo: b@example.net\nCc: " + long + "\n", "Raw", "give the recipients"},
		{"long Cc, recipients given", Message{Bcc: to}, "From: a@example.org\nTo: b@example.net\nCc: " + long + "\n", "", ""},
		{"From with a literal", Message{To: to}, "From: " + literal + "\n", "Raw", "From of the Message"},
		{"From with a literal, From given", Message{To: to, From: Address{Address: "f@example.org"}}, "From: " + literal + "\n", "", ""},
		{"From with a literal, return path and Message-ID given", Message{To: to, EnvelopeFrom: "<>"}, "From: " + literal + "\nMessage-ID: <1@x>\n", "", ""},
		{"From with a literal, return path given", Message{To: to, EnvelopeFrom: "<>"}, "From: " + literal + "\n", "Raw", "From of the Message"},
		{"Sender with a literal, several From", Message{To: to}, "From: a@example.org, b@example.org\nSender: " + literal + "\n", "Raw", "Sender"},
		{"no address in From", Message{To: to}, "From: Nobody:;\n", "Raw", "no address"},
	} {
		test.msg.Raw = []byte(test.raw + "\nx\n")
		_, err := rawDraft(t, &test.msg)
		var wrong *InvalidError
		switch {
		case test.field == "" && err != nil:
			t.Errorf("%s: %v", test.name, err)
		case test.field != "" && (!errors.As(err, &wrong) || wrong.Field != test.field || !strings.Contains(err.Error(), test.word)):
			t.Errorf("%s: the error is %v", test.name, err)
		}
	}
}

// TestRawFromElsewhere shows what becomes of the marks that providers, servers and files leave on a message.
func TestRawFromElsewhere(t *testing.T) {
	const head = "From: a@example.org\nTo: b@example.net\nDate: Sat, 28 Feb 2026 10:00:00 +0100\nMessage-ID: <1@x>\n"
	for _, stamp := range []string{
		"X-SES-Outgoing: 2026.02.28-54.240.1.1", "X-SES-RECEIPT: AEFB", "X-SES-Spam-Verdict: PASS", "X-SES-Virus-Verdict: PASS",
		"X-Mailgun-Sid: WyJhIl0=", "X-Mailgun-Incoming: Yes", "X-Mailgun-Sflag: No", "X-Mailgun-Sscore: 0.1", "X-MC-Relay: Neutral",
		"X-MC-Loop-Signature: 1:2", "X-MC-Ingress-Time: 1", "X-MC-Unique: x", "X-PM-Message-Id: 1", "X-PM-RCPT: |bTB8", "X-MJ-Mid: 1",
		"X-Mailin-EID: 1", "X-SG-EID: x", "X-Spam-Status: No", "Delivered-To: b@example.net", "Received: from x by y; Sat, 28 Feb 2026 10:00:00 +0100",
	} {
		raw := stamp + "\n" + head + "\nbody\n"
		if d, err := rawDraft(t, &Message{Raw: []byte(raw)}); err != nil || string(d.body) != crlf(raw) {
			t.Errorf("%s: %v", stamp, err)
		}
	}
	for _, command := range []string{
		"X-SES-CONFIGURATION-SET: x", "X-SES-SOURCE-ARN: x", "X-Mailgun-Drop-Message: yes", "X-Mailgun-Sending-Ip: 192.0.2.1", "X-PM-Tag: x",
		"X-PM-Message-Stream: x", "X-MC-Template: x", "X-MJ-TemplateID: 1", "X-Mailin-Tag: x", "X-SMTPAPI: {}", "X-MSYS-API: {}", "Resend-Idempotency-Key: x",
	} {
		name, _, _ := strings.Cut(command, ":")
		_, err := rawDraft(t, &Message{Raw: []byte(command + "\n" + head + "\nbody\n")})
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(name)) || !strings.Contains(err.Error(), "AllowHeaders") {
			t.Errorf("%s: %v", command, err)
		}
	}
	for name, raw := range map[string]string{
		"return path":      "Return-Path: <x@example.org>\n" + head + "\nbody\n",
		"two return paths": "Return-Path: <x@example.org>\n" + head + "return-path:\n <>\n\nbody\n",
		"byte order mark":  "\ufeff" + head + "\nbody\n",
		"Bcc":              head + "Bcc: b@example.net\n\nbody\n",
	} {
		if d, err := rawDraft(t, &Message{Raw: []byte(raw)}); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if string(d.body) != crlf(head+"\nbody\n") {
			t.Errorf("%s: the message becomes %q", name, d.body)
		}
	}
	for _, test := range []struct{ raw, word string }{
		{"From a@example.org Sat Feb 28 10:00:00 2026\n" + head + "\nbody\n", "mbox"},
		{"\ufeffFrom - Sat Feb 28 10:00:00 2026\n" + head + "\nbody\n", "mbox"},
		{">From a@example.org Sat Feb 28 10:00:00 2026\n" + head + "\nbody\n", "mbox"},
		{"From MAILER-DAEMON Fri Jul  8 12:08:34 2011\r\n" + crlf(head) + "\r\nbody\r\n", "mbox"},
		{"\xff\xfeF\x00r\x00", "UTF-16"},
		{"Subject: Grüße\n" + head + "\nbody\n", "RFC 2047"},
		{"Subject: Gr\xfc\xdfe\n" + head + "\nbody\n", "RFC 2047"},
		{head + "X: a\x01\n\nbody\n", "control"},
	} {
		if _, err := rawDraft(t, &Message{Raw: []byte(test.raw)}); err == nil || !strings.Contains(err.Error(), test.word) {
			t.Errorf("%.40q: the error is %v, want one with %s", test.raw, err, test.word)
		}
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
		if id, err := letter.ParseMessageID(m.Header.Get("Message-Id")); err != nil || id != d.messageID {
			t.Fatalf("Message-ID %q, stored %q (%v)", m.Header.Get("Message-Id"), d.messageID, err)
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
