package smtpx_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxmail/outbox/smtpx"
)

// A server that ends the connection while the Commit hook runs has accepted nothing. The client notices it before the body
// leaves. A message of which nothing was sent goes on another connection.
func TestEndDuringCommitIsNoDoubt(t *testing.T) {
	for _, d := range dialogues {
		for _, bye := range []string{"", "421 4.4.2 timeout waiting for data", "421 4.3.2 shutting down", "451 4.4.2 timeout", "550 5.7.1 no"} {
			for _, kept := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%.3s/kept %v", d.name, bye, kept), func(t *testing.T) {
					inHook, gone := make(chan struct{}), make(chan struct{})
					var sessions atomic.Int64
					mails := 0
					addr := script(t, func(c net.Conn, r *bufio.Reader, n int) {
						last := 1 // the message in whose hook the server leaves
						if kept {
							last = 2
						}
						sessions.Store(int64(n))
						leave := func() bool {
							if n != 1 || mails != last {
								return false
							}
							<-inHook
							if bye != "" {
								say(c, bye)
							}
							_ = c.Close()
							close(gone)
							return true
						}
						s := &dialogueScript{ehlo: d.extensions}
						s.replies = func(_ int, verb, _ string) (string, bool) {
							switch {
							case verb == "EHLO" && d.flight && !kept:
								mails++
								say(c, strings.Join(append([]string{"250-x"}, d.extensions...), "\r\n250-")+"\r\n250 HELP")
								return "", leave()
							case verb == "MAIL" && !d.flight:
								mails++
							case verb == "." && d.flight && kept:
								if mails += 2; mails == 2 {
									say(c, "250 ok")
									return "", leave()
								}
							case verb == "RCPT" && (d.name == "chunking" || d.name == "lockstep"):
								if mails == last && n == 1 {
									say(c, "250 ok")
									return "", leave()
								}
							case verb == "DATA" && d.name == "pipelining" && mails == last && n == 1:
								say(c, "354 go")
								return "", leave()
							}
							return "", false
						}
						s.serve(c, r, n)
					})
					client := open(t, "smtp://"+addr+"?tls=none&conns=1")
					send := func(commit func(context.Context) error) error {
						env := envelope("a@example.net")
						env.Commit = commit
						_, err := client.Send(testContext(t), env, message("x"))
						return err
					}
					if kept {
						if err := send(nil); err != nil {
							t.Fatal(err)
						}
					}
					commits := 0
					err := send(func(context.Context) error {
						commits++
						if commits == 1 {
							inHook <- struct{}{}
							<-gone
							for !smtpx.Heard(client) { // the end is on its way through the loopback
								runtime.Gosched()
							}
						}
						return nil
					})
					if d.flight && kept && bye != "550 5.7.1 no" {
						if err != nil || commits != 1 || sessions.Load() != 2 {
							t.Errorf("%v, %d commits, %d sessions; want another session", err, commits, sessions.Load())
						}
						return
					}
					var e *smtpx.Error
					if !errors.As(err, &e) || e.Class == smtpx.ClassAmbiguous || e.Stage != smtpx.StageData || commits != 1 {
						t.Errorf("%v, %d commits; want a definite failure at stage data", err, commits)
					}
					if want, _, _ := strings.Cut(bye, " "); err != nil && !strings.Contains(err.Error(), want) {
						t.Errorf("the server's words are lost: %v", err)
					}
				})
			}
		}
	}
}

// A refusal is a refusal however long it is, however many codes it has, and wherever it ends.
func TestLongOrMixedRefusalsAreNoDoubt(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for name, tc := range map[string]struct {
		reply string
		code  int // 0 for a doubt, 250 for accepted
	}{
		"long 554":               {"554 5.2.0 " + long, 554},
		"554 beyond all bounds":  {"554 5.2.0 " + strings.Repeat(long, 20), 554},
		"554 of 300 lines":       {strings.Repeat("554-x\r\n", 300) + "554 x", 554},
		"550 then 554":           {"550-5.7.1 no\r\n554 5.7.1 no", 550},
		"554 then 451":           {"554-5.7.1 no\r\n451 4.7.1 later", 451},
		"451 then 554":           {"451-4.7.1 later\r\n554 5.7.1 no", 451},
		"550 then no reply":      {"550-5.7.1 no\r\n<html>", 550},
		"451 cut off":            {"451-4.3.0 later\r\n45", 451},
		"long 250":               {"250 2.0.0 " + long, 250},
		"long lines of 250":      {"250-" + long + "\r\n250-" + long + "\r\n250 ok", 250},
		"250 then 550":           {"250-ok\r\n550 no", 0},
		"550 then 250":           {"550-no\r\n250 ok", 0},
		"250 beyond all bounds":  {"250 " + strings.Repeat(long, 20), 0},
		"221":                    {"221 2.0.0 closing", 0},
		"220 of another session": {"220 x ESMTP", 0},
		"354 again":              {"354 go on", 0},
	} {
		t.Run(name, func(t *testing.T) {
			addr := script(t, func(c net.Conn, r *bufio.Reader, _ int) {
				s := &dialogueScript{replies: func(_ int, verb, _ string) (string, bool) {
					if verb == "DATA" {
						say(c, "354 go")
						skipBody(r)
						return tc.reply, true
					}
					return "", false
				}}
				if strings.HasSuffix(name, "cut off") {
					s.replies = func(_ int, verb, _ string) (string, bool) {
						if verb == "DATA" {
							say(c, "354 go")
							skipBody(r)
							_, _ = io.WriteString(c, tc.reply)
							return "", true
						}
						return "", false
					}
				}
				s.serve(c, r, 1)
			})
			client := open(t, "smtp://"+addr+"?tls=none")
			_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
			var e *smtpx.Error
			switch errors.As(err, &e); {
			case tc.code == 250:
				if err != nil {
					t.Errorf("error %.200v", err)
				}
			case tc.code == 0:
				wantError(t, err, smtpx.StageDot, smtpx.ClassAmbiguous)
			case e == nil || e.Class == smtpx.ClassAmbiguous || e.Reply.Code != tc.code:
				t.Errorf("error %.200v, want a refusal with %d", err, tc.code)
			}
		})
	}
}

// After 421 the server accepts nothing. If it then hangs up, a message that left in one flight is not in doubt. If it still
// answers the message, that answer counts.
func TestClosing421InFlight(t *testing.T) {
	for name, tc := range map[string]struct {
		mail, first, second, dot string
		accepted                 []bool
	}{
		"to MAIL":                      {mail: "421 4.3.2 down", accepted: []bool{false, false}},
		"to the first recipient":       {first: "421 4.3.2 down", accepted: []bool{false, false}},
		"to the second recipient":      {second: "421 4.3.2 down", accepted: []bool{false, false}},
		"221 to the second recipient":  {second: "221 2.0.0 bye", accepted: []bool{false, false}},
		"to the body":                  {dot: "421 4.3.2 down", accepted: []bool{false, false}},
		"to a recipient, accepted yet": {second: "421 4.3.2 busy", dot: "250 ok", accepted: []bool{true, false}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &dialogueScript{ehlo: []string{"PIPELINING", "CHUNKING"}}
			closing := false
			s.replies = func(_ int, verb, l string) (string, bool) {
				reply := ""
				switch {
				case closing && tc.dot == "":
					return "", true
				case verb == "MAIL":
					reply = tc.mail
				case strings.HasPrefix(l, "RCPT TO:<a@"):
					reply = tc.first
				case strings.HasPrefix(l, "RCPT TO:<b@"):
					reply = tc.second
				case verb == ".":
					reply = tc.dot
				}
				closing = closing || reply != ""
				return reply, reply != ""
			}
			client := open(t, "smtp://"+s.start(t)+"?tls=none")
			res, err := client.Send(testContext(t), envelope("a@example.net", "b@example.net"), message("x"))
			if err == nil {
				t.Error("no error")
			}
			for i, o := range res.Outcomes {
				if o.Accepted != tc.accepted[i] || (o.Err != nil && o.Err.Class != smtpx.ClassTransient) {
					t.Errorf("%s: accepted %v, %v", o.Recipient, o.Accepted, o.Err)
				}
			}
		})
	}
}

// If the server does not know BDAT, this is no verdict on the message. The message goes with DATA on another connection, and
// BDAT is not used again.
func TestFalseOfferOfChunking(t *testing.T) {
	for _, reply := range []string{"500 5.5.2 unrecognized command", "502 command not implemented", "503 5.5.1 bad sequence of commands",
		"501 5.5.4 syntax error", "504 5.5.4 no such parameter", "555 5.5.4 unsupported"} {
		for _, extensions := range [][]string{{"CHUNKING"}, {"PIPELINING", "CHUNKING"}} {
			t.Run(reply[:3]+" "+strings.Join(extensions, " "), func(t *testing.T) {
				var l learned
				s := &dialogueScript{ehlo: extensions}
				s.replies = func(_ int, verb, _ string) (string, bool) { return reply, verb == "BDAT" }
				client := open(t, "smtp://"+s.start(t)+"?tls=none&conns=1", l.option)
				for n := range 3 {
					if _, err := client.Send(testContext(t), envelope("a@example.net"), message("x")); err != nil {
						t.Fatalf("message %d: %v", n, err)
					}
				}
				if sessions, bodies := s.counts(); sessions != 2 || bodies != 3 || s.said("BDAT") != 1 {
					t.Errorf("%d sessions, %d bodies, %d BDAT", sessions, bodies, s.said("BDAT"))
				}
				if all := l.list(); len(all) != 1 || all[0].Effect != smtpx.EffectFalseOffer || all[0].Extension != "CHUNKING" {
					t.Errorf("learnt %+v", all)
				}
			})
		}
	}
}

// A BDAT that is refused because of its recipients, or for what the message is, keeps its verdict.
func TestRefusalOfBDATIsAVerdict(t *testing.T) {
	for reply, class := range map[string]smtpx.Class{"554 5.6.0 message refused": smtpx.ClassMessage, "451 4.3.0 later": smtpx.ClassTransient} {
		s := &dialogueScript{ehlo: []string{"PIPELINING", "CHUNKING"}}
		s.replies = func(_ int, verb, _ string) (string, bool) { return reply, verb == "." }
		client := open(t, "smtp://"+s.start(t)+"?tls=none")
		_, err := client.Send(testContext(t), envelope("a@example.net"), message("x"))
		wantError(t, err, smtpx.StageDot, class)
	}
	s := &dialogueScript{ehlo: []string{"PIPELINING", "CHUNKING"}}
	s.replies = func(_ int, verb, _ string) (string, bool) {
		switch verb {
		case "RCPT":
			return "550 5.1.1 no such user", true
		case ".":
			return "503 5.5.1 no valid recipients", true
		}
		return "", false
	}
	client := open(t, "smtp://"+s.start(t)+"?tls=none")
	_, err := client.Send(testContext(t), envelope("a@example.net"), message("x"))
	wantError(t, err, smtpx.StageRcpt, smtpx.ClassRecipient)
	if s.said("EHLO") != 1 {
		t.Error("the message was sent again")
	}
}

// A job that goes back to the queue after its context was done ends there.
func TestContextThatIsDoneEndsARepeatedJob(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	arrived, done := make(chan struct{}), make(chan struct{})
	addr := script(t, func(c net.Conn, r *bufio.Reader, n int) {
		if n > 1 {
			<-hold // the second connection gets no greeting
			return
		}
		rcpts := 0
		s := &dialogueScript{}
		s.replies = func(_ int, verb, _ string) (string, bool) {
			switch verb {
			case "RCPT":
				if rcpts++; rcpts > 1 {
					return "452 4.5.3 too many recipients", true
				}
			case "DATA":
				say(c, "354 go")
				skipBody(r)
				close(arrived)
				<-done
				say(c, "250 ok")
				return "", true
			}
			return "", false
		}
		s.serve(c, r, n)
	})
	client := open(t, "smtp://"+addr+"?tls=none&messages=1")
	ctx, cancel := context.WithCancel(t.Context())
	env := envelope("a@example.net", "b@example.net")
	env.Commit = func(context.Context) error {
		go func() {
			<-arrived // the whole body
			cancel()
			close(done)
		}()
		return nil
	}
	start := time.Now()
	res, err := client.Send(ctx, env, message("x"))
	if !errors.Is(err, context.Canceled) || !res.Outcomes[0].Accepted || time.Since(start) > 5*time.Second {
		t.Errorf("error %v after %v, outcomes %+v", err, time.Since(start), res.Outcomes)
	}
}
