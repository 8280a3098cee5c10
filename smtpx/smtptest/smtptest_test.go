package smtptest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outboxmail/outbox/smtpx/smtptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// talk says a script to a server in clear text and checks what it answers: lines that begin with "C: " are said, those that
// begin with "S: " must be heard, "*" at their end standing for anything.
func talk(t *testing.T, srv *smtptest.Server, script string) {
	t.Helper()
	nc, err := new(net.Dialer).DialContext(t.Context(), "tcp", srv.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(nc)
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "C:"):
			if _, err := io.WriteString(nc, strings.TrimPrefix(line[2:], " ")+"\r\n"); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		case line == "EOF":
			if rest, err := io.ReadAll(br); err != nil || len(rest) > 0 {
				t.Fatalf("heard %q, %v; want the end", rest, err)
			}
		case strings.HasPrefix(line, "S: "):
			got, err := br.ReadString('\n')
			if err != nil || !strings.HasSuffix(got, "\r\n") {
				t.Fatalf("heard %q, %v; want %q", got, err, line)
			}
			got = strings.TrimSuffix(got, "\r\n")
			if want, open := strings.CutSuffix(line[3:], "*"); got != want && (!open || !strings.HasPrefix(got, want)) {
				t.Fatalf("heard %q, want %q", got, line[3:])
			}
		}
	}
}

func TestDialogue(t *testing.T) {
	srv := smtptest.New(t, smtptest.Config{TLS: smtptest.NoTLS, Extensions: []string{"PIPELINING", "SIZE 1000", "CHUNKING"}, MaxRecipients: 2})
	//nolint:dupword // it is a script
	talk(t, srv, `
		S: 220 relay.test ESMTP*
		C: MAIL FROM:<a@example.com>
		S: 503*
		C: EHLO
		S: 501*
		C: EHLO client.example.com
		S: 250-relay.test*
		S: 250-PIPELINING
		S: 250-SIZE 1000
		S: 250 CHUNKING
		C: RCPT TO:<b@example.com>
		S: 503*
		C: DATA
		S: 503*
		C: MAIL FROM:<a@example.com> SIZE=1001
		S: 552*
		C: MAIL FROM:a@example.com
		S: 501*
		C: MAIL FROM:<a@example.com>X
		S: 501*
		C: MAIL FROM:<"a> SIZE=1"@example.com> SIZE=5 BODY=8BITMIME
		S: 250*
		C: MAIL FROM:<a@example.com>
		S: 503*
		C: DATA
		S: 554*
		C: RCPT TO:<>
		S: 501*
		C: RCPT TO:<b@example.com>
		S: 250*
		C: RCPT TO:<c@example.com>
		S: 250*
		C: RCPT TO:<d@example.com>
		S: 452 4.5.3*
		C: DATA
		S: 354*
		C: Message-ID: <1@example.com>
		C:
		C: ..dot
		C: .
		S: 250 2.0.0 Ok: queued as *
		C: NOOP
		S: 250*
		C: VRFY b
		S: 500*
		C: MAIL FROM:<>
		S: 250*
		C: RSET
		S: 250*
		C: MAIL FROM:<>
		S: 250*
		C: RCPT TO:<b@example.com>
		S: 250*
		C: BDAT 7
		C: first
		S: 250*
		C: BDAT 8 LAST
		C: second
		S: 250*
		C: QUIT
		S: 221*
		EOF`)
	got := srv.Messages()
	if len(got) != 2 {
		t.Fatalf("%d messages", len(got))
	}
	if m := got[0]; m.From != `"a> SIZE=1"@example.com` || m.Params != "SIZE=5 BODY=8BITMIME" || m.MessageID != "<1@example.com>" ||
		string(m.Data) != "Message-ID: <1@example.com>\r\n\r\n.dot\r\n" || m.Size != len(m.Data) || m.Header("Message-ID") != m.MessageID {
		t.Errorf("first message %+v", m)
	}
	if m := got[1]; m.From != "" || string(m.Data) != "first\r\nsecond\r\n" || m.Session.EHLO != "client.example.com" {
		t.Errorf("second message %+v", m)
	}
}

// Only CRLF . CRLF ends a body: whoever believes in other ends can be made to smuggle.
func TestOnlyOneEndOfData(t *testing.T) {
	for _, fake := range []string{"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n"} {
		srv := smtptest.New(t, smtptest.Config{TLS: smtptest.NoTLS, Extensions: []string{}})
		talk(t, srv, "S: 220*\nC: EHLO x.example.com\nS: 250*\nC: MAIL FROM:<>\nS: 250*\nC: RCPT TO:<b@example.com>\nS: 250*\nC: QUIT\nS: 221*")
		nc, err := new(net.Dialer).DialContext(t.Context(), "tcp", srv.Addr())
		if err != nil {
			t.Fatal(err)
		}
		body := "text" + fake + "MAIL FROM:<evil@example.com>\r\n"
		_, err = io.WriteString(nc, "EHLO x.example.com\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"+body+".\r\nQUIT\r\n")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, nc); err != nil {
			t.Fatal(err)
		}
		nc.Close()
		want := strings.ReplaceAll(body, "\r\n.", "\r\n") // a dot that begins a line is taken off
		if got := srv.Messages(); len(got) != 1 || string(got[0].Data) != want {
			t.Errorf("%q: %+v", fake, got)
		}
	}
}

func TestLimits(t *testing.T) {
	srv := smtptest.New(t, smtptest.Config{TLS: smtptest.NoTLS, Extensions: []string{}, MaxMessages: 1, MaxSessions: 1})
	talk(t, srv, `
		S: 220*
		C: EHLO x.example.com
		S: 250*
		C: MAIL FROM:<>
		S: 250*
		C: RCPT TO:<b@example.com>
		S: 250*
		C: DATA
		S: 354*
		C: x
		C: .
		S: 250*
		C: MAIL FROM:<>
		S: 421*
		EOF`)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := srv.WaitMessages(ctx, 2); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "1 of 2") {
		t.Errorf("waiting for what does not come: %v", err)
	}
	if messages, err := srv.WaitMessages(t.Context(), 1); err != nil || len(messages) != 1 {
		t.Errorf("%d messages, %v", len(messages), err)
	}
	srv.Clear()
	if srv.Count() != 0 {
		t.Error("the ledger is not empty")
	}
}

func TestWrongConfiguration(t *testing.T) {
	for _, c := range []smtptest.Config{{TLS: "maybe"}, {Personality: "acme"}, {Addr: "256.0.0.1:0"}} {
		if srv, err := smtptest.Start(c); err == nil {
			srv.Close()
			t.Errorf("a server with %+v starts", c)
		}
	}
}

// fakeTB notes whether a test failed.
type fakeTB struct{ failure string }

func (tb *fakeTB) Helper()        {}
func (tb *fakeTB) Cleanup(func()) {}
func (tb *fakeTB) Fatalf(format string, args ...any) {
	tb.failure = fmt.Sprintf(format, args...)
}

func TestRequireEHLO(t *testing.T) {
	for name, want := range map[string]string{
		"mail.example.com":         "",
		"a-b.c1.example.co.uk":     "",
		"":                         "empty",
		"localhost":                "this host",
		"localhost.localdomain":    "this host",
		"myhost":                   "not fully qualified",
		"3f2a9c1b7d0e":             "not fully qualified",
		"my_host.example.com":      "character",
		"mail.example.com.":        "dot",
		"-mail.example.com":        "label",
		"mail..example.com":        "label",
		"192.0.2.1":                "brackets",
		"[192.0.2.1]":              "gmail-relay",
		"[nonsense]":               "literal",
		"mail.example.com\r\nQUIT": "character",
	} {
		tb := new(fakeTB)
		smtptest.RequireEHLO(tb, name)
		if (want == "") != (tb.failure == "") || !strings.Contains(tb.failure, want) {
			t.Errorf("%q: %q, want %q", name, tb.failure, want)
		}
	}
}
