package smtpx_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox/smtpx"
)

// A parameter that the server offers and then refuses is left out. The refusal is no verdict on the message.
func TestFalseOffersOfParameters(t *testing.T) {
	eight := []byte("From: a@example.com\r\nSubject: x\r\n\r\n\xe4\r\n")
	for name, tc := range map[string]struct {
		extensions []string
		refuse     func(verb, line string) bool
		reply      string
		body       []byte
		dsn        smtpx.DSN
		dropped    []string
	}{
		"SIZE": {[]string{"SIZE 1000000"}, func(_, l string) bool { return strings.Contains(l, "SIZE=") },
			"555 5.5.4 Unsupported option: SIZE=100", message("x"), smtpx.DSN{}, []string{"SIZE"}},
		"SIZE, pipelined": {[]string{"SIZE 1000000", "PIPELINING"}, func(_, l string) bool { return strings.Contains(l, "SIZE=") },
			"501 5.5.4 Invalid arguments", message("x"), smtpx.DSN{}, []string{"SIZE"}},
		"BODY": {[]string{"8BITMIME", "SIZE"}, func(_, l string) bool { return strings.Contains(l, "BODY=") },
			"504 5.5.4 parameter BODY=8BITMIME not implemented", eight, smtpx.DSN{}, []string{"8BITMIME"}},
		"some parameter": {[]string{"8BITMIME", "SIZE"}, func(_, l string) bool { return strings.HasPrefix(l, "MAIL") && !strings.HasSuffix(l, ">") },
			"555 5.5.4 MAIL FROM parameters not recognized or not implemented", eight, smtpx.DSN{}, []string{"SIZE", "8BITMIME"}},
		"ENVID": {[]string{"DSN"}, func(_, l string) bool { return strings.Contains(l, "ENVID=") },
			"501 5.5.4 syntax error in parameters", message("x"), smtpx.DSN{ID: "1"}, []string{"DSN"}},
		"NOTIFY": {[]string{"DSN"}, func(_, l string) bool { return strings.Contains(l, "NOTIFY=") },
			"555 5.5.4 Unsupported option: NOTIFY=FAILURE", message("x"), smtpx.DSN{Notify: []smtpx.DSNNotify{smtpx.NotifyFailure}}, []string{"DSN"}},
		"PIPELINING": {[]string{"PIPELINING"}, func(verb, _ string) bool { return verb == "RCPT" },
			"503 5.5.0 improper use of SMTP command pipelining", message("x"), smtpx.DSN{}, []string{"PIPELINING"}},
	} {
		t.Run(name, func(t *testing.T) {
			var l learned
			s := &dialogueScript{ehlo: tc.extensions}
			s.replies = func(n int, verb, line string) (string, bool) {
				return tc.reply, tc.refuse(verb, line) && (verb != "RCPT" || n == 1)
			}
			client := open(t, "smtp://"+s.start(t)+"?tls=none&conns=1", l.option)
			env := envelope("b@example.net")
			env.DSN = tc.dsn
			for range 2 {
				if _, err := client.Send(testContext(t), env, tc.body); err != nil {
					t.Fatal(err)
				}
			}
			if sessions, bodies := s.counts(); sessions != 2 || bodies != 2 {
				t.Errorf("%d sessions, %d bodies", sessions, bodies)
			}
			var dropped []string
			for _, e := range l.list() {
				dropped = append(dropped, e.Extension)
			}
			if fmt.Sprint(dropped) != fmt.Sprint(tc.dropped) {
				t.Errorf("given up: %v, want %v", dropped, tc.dropped)
			}
		})
	}
}

// A refusal that only looks like one of a parameter keeps its verdict.
func TestRefusalsOfThePartnersAreNoFalseOffers(t *testing.T) {
	for _, tc := range []struct {
		verb, reply string
		stage       smtpx.Stage
	}{
		{"MAIL", "552 5.3.4 message size exceeds fixed limit", smtpx.StageMail},
		{"MAIL", "501 5.1.7 bad sender address", smtpx.StageMail},
		{"RCPT", "550 5.1.1 no such user", smtpx.StageRcpt},
		{"RCPT", "501 5.1.3 bad recipient address syntax", smtpx.StageRcpt},
	} {
		s := &dialogueScript{ehlo: []string{"SIZE 1000000", "PIPELINING", "DSN"}}
		s.replies = func(_ int, verb, _ string) (string, bool) { return tc.reply, verb == tc.verb }
		client := open(t, "smtp://"+s.start(t)+"?tls=none")
		_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
		var e *smtpx.Error
		if sessions, _ := s.counts(); !errors.As(err, &e) || e.Stage != tc.stage || e.Reply.Code == 0 || sessions != 1 {
			t.Errorf("%s: %v, %d sessions", tc.reply, err, sessions)
		}
	}
}

// A server that offers PIPELINING and loses all commands of a flight but the first is asked one by one from then on.
func TestFlightThatIsNotAnswered(t *testing.T) {
	var l learned
	lost := make(chan struct{})
	defer close(lost)
	s := &dialogueScript{ehlo: []string{"PIPELINING"}}
	s.replies = func(n int, verb, _ string) (string, bool) {
		if n == 1 && verb == "RCPT" {
			<-lost
			return "", true
		}
		return "", false
	}
	client := open(t, "smtp://"+s.start(t)+"?tls=none", l.option, func(c *smtpx.Config) { c.Timeouts.Rcpt = 50 * time.Millisecond })
	_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
	if e := asError(t, err, smtpx.StageRcpt, smtpx.ClassTransient); !strings.Contains(e.Hint, "without=PIPELINING") {
		t.Errorf("hint %q", e.Hint)
	}
	if all := l.list(); len(all) != 1 || all[0].Extension != "PIPELINING" {
		t.Errorf("learnt %+v", all)
	}
	if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
		t.Error(err)
	}
}

// Exim with recipients_max_reject answers 552 to the recipients beyond its limit, and 554 to the message because of them. The
// message then reaches all recipients in parts.
func TestSurplusRecipientsDoNotSpoilTheOthers(t *testing.T) {
	for _, extensions := range [][]string{{"8BITMIME"}, {"PIPELINING"}, {"CHUNKING"}, {"PIPELINING", "CHUNKING"}} {
		for _, at := range []string{"DATA", "."} {
			if at == "DATA" && strings.Contains(fmt.Sprint(extensions), "CHUNKING") {
				continue
			}
			t.Run(fmt.Sprint(extensions, at), func(t *testing.T) {
				const limit = 5
				rcpts := 0
				s := &dialogueScript{ehlo: extensions}
				s.replies = func(_ int, verb, _ string) (string, bool) {
					switch verb {
					case "MAIL", "RSET":
						rcpts = 0
					case "RCPT":
						rcpts++
						return "552 too many recipients", rcpts > limit
					case at:
						return "554 Too many recipients", rcpts > limit
					}
					return "", false
				}
				client := open(t, "smtp://"+s.start(t)+"?tls=none&conns=1")
				env := envelope()
				for i := range 12 {
					env.To = append(env.To, fmt.Sprintf("r%d@example.net", i))
				}
				if res, err := client.Send(testContext(t), env, message("x")); err != nil {
					t.Errorf("%v, outcomes %+v", err, res.Outcomes)
				}
				if sessions, bodies := s.counts(); sessions != 1 || bodies != 3 {
					t.Errorf("%d sessions, %d bodies, want 1 and 3", sessions, bodies)
				}
			})
		}
	}
}

// After a temporary refusal of MAIL on a connection that carried messages, the message is first tried on a new connection,
// because the session may be used up. On a new connection the refusal is the verdict.
func TestMAILThatAUsedSessionRefuses(t *testing.T) {
	for _, reply := range []string{"452 4.5.3 Too many recipients: Too many messages sent", "451 4.3.0 enough for now", "450 try later"} {
		for _, extensions := range [][]string{{"8BITMIME"}, {"PIPELINING"}} {
			const limit = 5
			mails := map[int]int{}
			s := &dialogueScript{ehlo: extensions}
			s.replies = func(n int, verb, _ string) (string, bool) {
				if verb == "MAIL" {
					mails[n]++
				}
				return reply, verb == "MAIL" && mails[n] > limit
			}
			client := open(t, "smtp://"+s.start(t)+"?tls=none&conns=1")
			for n := range 18 {
				if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
					t.Errorf("%s: message %d: %v", reply, n, err)
				}
			}
			if sessions, bodies := s.counts(); sessions != 4 || bodies != 18 {
				t.Errorf("%s: %d sessions, %d bodies", reply, sessions, bodies)
			}
			if got := client.Stats().MaxMessages; strings.HasPrefix(reply, "452") != (got == limit) {
				t.Errorf("%s: the limit is %d", reply, got)
			}
		}
	}
	s := &dialogueScript{}
	s.replies = func(_ int, verb, _ string) (string, bool) { return "451 4.3.0 not now", verb == "MAIL" }
	client := open(t, "smtp://"+s.start(t)+"?tls=none&conns=1")
	for range 3 {
		_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
		wantError(t, err, smtpx.StageMail, smtpx.ClassTransient)
	}
	if sessions, _ := s.counts(); sessions != 1 {
		t.Errorf("%d sessions for three refusals", sessions)
	}
}
