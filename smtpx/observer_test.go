package smtpx_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// transcript collects lines.
type transcript struct {
	mu    sync.Mutex
	lines []string
}

func (tr *transcript) option(c *smtpx.Config) {
	c.Transcript = func(l smtpx.Line) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.lines = append(tr.lines, l.String())
	}
}

func (tr *transcript) text() string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return strings.Join(tr.lines, "\n") + "\n"
}

func TestTranscript(t *testing.T) {
	var tr transcript
	srv, client := newRelay(t, smtptest.Config{User: "app", Password: "s3cret", Extensions: []string{"PIPELINING"}}, tr.option)
	if _, err := client.Send(testContext(t), envelope("b@example.net"), message("very private")); err != nil {
		t.Fatal(err)
	}
	client.Close()
	id := srv.Messages()[0].ID
	want := `#1 S: 220 relay.test ESMTP smtptest
#1 C: EHLO client.example.com
#1 S: 250-relay.test greets you
#1 S: 250-STARTTLS
#1 S: 250 PIPELINING
#1 C: STARTTLS
#1 S: 220 2.0.0 go ahead
#1 C: EHLO client.example.com
#1 S: 250-relay.test greets you
#1 S: 250-AUTH PLAIN LOGIN
#1 S: 250 PIPELINING
#1 C: AUTH PLAIN ***
#1 S: 235 2.7.0 authenticated
#1 C: MAIL FROM:<a@example.com>
#1 C: RCPT TO:<b@example.net>
#1 C: DATA
#1 S: 250 2.1.0 sender ok
#1 S: 250 2.1.5 recipient ok
#1 S: 354 end with a dot
#1 C: [104 octets of body]
#1 C: .
#1 S: 250 2.0.0 Ok: queued as ` + id + `
#1 C: QUIT
#1 S: 221 2.0.0 bye
`
	if got := tr.text(); got != want {
		t.Errorf("transcript:\n%swant:\n%s", got, want)
	}
}

// No turn of AUTH in either direction reaches a transcript. Neither does a password that a server repeats.
func TestTranscriptKeepsSecrets(t *testing.T) {
	secrets := []string{"hunter2", "aHVudGVyMg==", "AGFwcABodW50ZXIy", "YXBw"}
	echo := smtptest.At(smtptest.StageAuth, -1,
		smtptest.Action{Reply: "535-5.7.8 not hunter2\n535 5.7.8 nor AGFwcABodW50ZXIy, aHVudGVyMg=="})
	for name, config := range map[string]smtptest.Config{
		"PLAIN":                {},
		"LOGIN":                {Mechanisms: []string{"LOGIN"}},
		"repeated by a server": {Hook: echo},
	} {
		for _, password := range []string{"hunter2", strings.Repeat("hunter2", 100)} {
			if config.Hook != nil && len(password) > 10 {
				continue // what it repeats is not this one
			}
			t.Run(fmt.Sprint(name, len(password)), func(t *testing.T) {
				var tr transcript
				config.User, config.Password = "app", password
				_, client := newRelay(t, config, tr.option)
				_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
				for _, secret := range secrets {
					if strings.Contains(tr.text(), secret) || strings.Contains(fmt.Sprint(err), secret) {
						t.Errorf("%s is told:\n%serror: %v", secret, tr.text(), err)
					}
				}
				if !strings.Contains(tr.text(), "AUTH") {
					t.Errorf("no AUTH in the transcript:\n%s", tr.text())
				}
			})
		}
	}
}

func TestTranscriptIsPrintable(t *testing.T) {
	var tr transcript
	_, client := newRelay(t, smtptest.Config{Hook: smtptest.At(smtptest.StageMail, -1,
		smtptest.Action{Reply: "550-5.7.1 \x1b]0;evil\x07\r550\n550 5.7.1 \xff"})}, tr.option)
	_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
	if text := tr.text() + err.Error(); strings.ContainsAny(text, "\x1b\x07\r") || !utf8.ValidString(text) {
		t.Errorf("control characters in %q", text)
	}
}

func TestObserver(t *testing.T) {
	var (
		mu     sync.Mutex
		events []string
	)
	note := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, fmt.Sprintf(format, args...))
	}
	observe := func(c *smtpx.Config) {
		c.Observer = smtpx.Observer{
			Opened: func(o smtpx.Opened) { note("opened %d %s %s", o.Connection, o.TLS, o.Mechanism) },
			Closed: func(o smtpx.Closed) { note("closed %d after %d, lost %v", o.Connection, o.Messages, o.Lost) },
			Stage: func(s smtpx.StageDone) {
				if s.Duration < 0 || s.Duration > patience {
					t.Errorf("%s took %v", s.Stage, s.Duration)
				}
				class := smtpx.Class("ok")
				if s.Err != nil {
					class = s.Err.Class
				}
				note("%s %d %s", s.Stage, s.Code, class)
			},
			Message: func(m smtpx.MessageDone) {
				note("message %d of %d, %d octets, error %v", m.Accepted, m.Recipients, m.Size, m.Err != nil)
				if m.Waited < 0 || m.Waited > m.Duration {
					t.Errorf("waited %v of %v", m.Waited, m.Duration)
				}
			},
		}
	}
	_, client := newRelay(t, smtptest.Config{User: "app", Password: "s3cret", Extensions: []string{"PIPELINING"},
		Hook: refuseRcpt(map[string]string{"gone": "550 5.1.1 no such user"})}, observe)
	if _, err := client.Send(testContext(t), envelope("b@example.net", "gone@example.net"), message("x")); err == nil {
		t.Fatal("a recipient that does not exist was accepted")
	}
	client.Close()
	want := []string{
		"dial 0 ok", "banner 220 ok", "ehlo 250 ok", "starttls 220 ok", "tls 0 ok", "ehlo 250 ok", "auth 235 ok",
		"opened 1 TLS 1.3 PLAIN", "mail 250 ok", "rcpt 250 ok", "rcpt 550 recipient", "data 354 ok", "dot 250 ok",
		"message 1 of 2, 93 octets, error true", "closed 1 after 1, lost false",
	}
	if !slices.Equal(events, want) {
		t.Errorf("events %q, want %q", events, want)
	}
}

func TestObserverHearsOfFailedSetUp(t *testing.T) {
	stages := make(chan smtpx.StageDone, 10)
	_, client := newRelay(t, smtptest.Config{Hook: smtptest.At(smtptest.StageEHLO, -1,
		smtptest.Action{Reply: "504 5.5.2 need fully-qualified hostname"})},
		func(c *smtpx.Config) { c.Observer.Stage = func(s smtpx.StageDone) { stages <- s } })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := client.Send(ctx, envelope("b@example.net"), message("x"))
	wantError(t, err, smtpx.StageEHLO, smtpx.ClassConfig)
	close(stages)
	var last smtpx.StageDone
	for s := range stages {
		last = s
	}
	if last.Stage != smtpx.StageEHLO || last.Code != 504 || last.Err == nil || last.Err.Class != smtpx.ClassConfig {
		t.Errorf("the last stage is %+v", last)
	}
}
