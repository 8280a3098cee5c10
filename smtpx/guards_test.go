package smtpx_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// A message is withdrawn after its DATA has left behind the dot of another. The server would read the next octets on that
// connection as its body. The client therefore sends none there, and the waiting message goes on another connection.
func TestNothingFollowsTheDATAOfAWithdrawnMessage(t *testing.T) {
	withdrawn := make(chan struct{})
	var mu sync.Mutex
	bodies := []string{}
	addr := script(t, func(c net.Conn, r *bufio.Reader, n int) {
		say(c, "220 x")
		for mails := 0; ; {
			switch verb, _, _ := strings.Cut(line(r), " "); verb {
			case "EHLO":
				say(c, "250-x", "250 PIPELINING")
			case "MAIL":
				mails++
				say(c, "250 ok")
			case "DATA":
				say(c, "354 go")
				var b strings.Builder
				for {
					l, err := r.ReadString('\n')
					if b.WriteString(l); err != nil || l == ".\r\n" {
						break
					}
				}
				mu.Lock()
				bodies = append(bodies, b.String())
				mu.Unlock()
				if n == 1 && mails == 1 {
					<-withdrawn
				}
				say(c, "250 ok")
			case "":
				return
			default:
				say(c, "250 ok")
			}
		}
	})
	client := open(t, "smtp://"+addr+"?tls=none&conns=1")
	smtpx.TakeEarlyHeads(client)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	second, third := make(chan error, 1), make(chan error, 1)
	hooked := make(chan struct{})
	env := envelope("first@example.net")
	env.Commit = func(context.Context) error {
		go func() {
			env := envelope("second@example.net")
			env.Commit = func(context.Context) error { close(hooked); return nil }
			_, err := client.Send(ctx, env, message("second"))
			second <- err
		}()
		for client.Stats().Waiting == 0 {
			time.Sleep(time.Millisecond)
		}
		return nil
	}
	first := make(chan error, 1)
	go func() {
		_, err := client.Send(testContext(t), env, message("first"))
		first <- err
	}()
	<-hooked // the head of the second has left
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("second: %v", err)
	}
	go func() {
		_, err := client.Send(testContext(t), envelope("third@example.net"), message("third"))
		third <- err
	}()
	for client.Stats().Waiting == 0 {
		time.Sleep(time.Millisecond)
	}
	close(withdrawn)
	if err := errors.Join(<-first, <-third); err != nil {
		t.Error(err)
	}
	client.Close()
	mu.Lock()
	defer mu.Unlock()
	for _, b := range bodies {
		if strings.Contains(b, "MAIL FROM") || strings.Contains(b, "RSET") || strings.Contains(b, "QUIT") || strings.Contains(b, "second") {
			t.Errorf("a body is %q", b)
		}
	}
}

// A trial that ends without a result is repeated.
func TestUndecidedTrialIsRepeated(t *testing.T) {
	refused := 0
	hook := func(_ context.Context, e smtptest.Event) smtptest.Action {
		if e.Stage == smtptest.StageMail && e.Session.Messages >= 17 && refused < 2 {
			refused++
			return smtptest.Action{Reply: "550 5.7.1 sender not allowed"}
		}
		return smtptest.Action{}
	}
	srv, client := newRelay(t, smtptest.Config{Extensions: []string{"PIPELINING"}, Hook: hook}, func(c *smtpx.Config) { c.Connections = 1 })
	errs, _ := many(t, client, 60)
	failed := 0
	for _, err := range errs {
		if err != nil {
			failed++
		}
	}
	if failed != refused || refused != 2 || srv.Count() != 58 || smtpx.EarlyHeads(client) != "taken" {
		t.Errorf("%d failed, %d refused, %d arrived, early heads %s", failed, refused, srv.Count(), smtpx.EarlyHeads(client))
	}
}

// A connection that is out of step carries no other message: after 354 or 221 to the dot, and after a reply without a command.
func TestConnectionOutOfStepIsNotUsedAgain(t *testing.T) {
	for _, reply := range []string{"354 go on", "221 2.0.0 bye", "220 new greeting", "250-ok\r\n550 no"} {
		for _, d := range dialogues {
			n := 0
			s := &dialogueScript{ehlo: d.extensions}
			s.replies = func(_ int, verb, _ string) (string, bool) {
				if verb == "." {
					n++
				}
				return reply, verb == "." && n == 1
			}
			client := open(t, "smtp://"+s.start(t)+"?tls=none&conns=1")
			_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
			wantError(t, err, smtpx.StageDot, smtpx.ClassAmbiguous)
			if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
				t.Errorf("%s: the next message: %v", d.name, err)
			}
			if sessions, _ := s.counts(); sessions != 2 {
				t.Errorf("%s: %d sessions", d.name, sessions)
			}
		}
	}
	s := &dialogueScript{ehlo: []string{"PIPELINING"}}
	first := true
	s.replies = func(_ int, verb, _ string) (string, bool) {
		if verb == "." && first {
			first = false
			return "250 ok\r\n250 and one more", true
		}
		return "", false
	}
	client := open(t, "smtp://"+s.start(t)+"?tls=none&conns=1")
	errs, _ := many(t, client, 3)
	if sessions, bodies := s.counts(); errors.Join(errs...) != nil || sessions != 2 || bodies != 3 {
		t.Errorf("%v, %d sessions, %d bodies", errors.Join(errs...), sessions, bodies)
	}
}

// A BDAT that is refused may leave its transaction open: it is reset before the next part of the message.
func TestRefusedChunkIsResetBeforeTheNextPart(t *testing.T) {
	for _, extensions := range [][]string{{"CHUNKING", "LIMITS RCPTMAX=1"}, {"PIPELINING", "CHUNKING", "LIMITS RCPTMAX=1"}} {
		open1 := false
		refused := false
		s := &dialogueScript{ehlo: extensions}
		s.replies = func(_ int, verb, _ string) (string, bool) {
			switch verb {
			case "MAIL":
				if open1 {
					return "503 5.5.1 nested MAIL", true
				}
				open1 = true
			case "RSET":
				open1 = false
			case ".":
				if !refused {
					refused = true
					return "451 4.3.0 not this one", true
				}
				open1 = false
			}
			return "", false
		}
		client := open(t, "smtp://"+s.start(t)+"?tls=none&conns=1")
		res, err := client.Send(testContext(t), envelope("a@example.net", "b@example.net", "c@example.net"), message("x"))
		wantError(t, err, smtpx.StageDot, smtpx.ClassTransient)
		if res.Outcomes[0].Accepted || !res.Outcomes[1].Accepted || !res.Outcomes[2].Accepted || s.said("RSET") != 1 {
			t.Errorf("%q: outcomes %+v, %d RSET", extensions, res.Outcomes, s.said("RSET"))
		}
		if sessions, _ := s.counts(); sessions != 1 {
			t.Errorf("%q: %d sessions", extensions, sessions)
		}
	}
}

// A connection that is cut inside DATA is reset: the server does not even see an orderly end of the stream.
func TestCutIsAReset(t *testing.T) {
	got := make(chan error, 1)
	addr := script(t, func(c net.Conn, r *bufio.Reader, n int) {
		s := &dialogueScript{}
		s.replies = func(_ int, verb, _ string) (string, bool) {
			if verb == "DATA" {
				say(c, "354 go")
				_, err := io.Copy(io.Discard, r)
				got <- err
				return "", true
			}
			return "", false
		}
		s.serve(c, r, n)
	})
	client := open(t, "smtp://"+addr+"?tls=none")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	large := message(strings.Repeat(strings.Repeat("x", 76)+"\r\n", 200_000))
	env := envelope("b@example.net")
	env.Commit = func(context.Context) error {
		time.AfterFunc(5*time.Millisecond, cancel)
		return nil
	}
	if _, err := client.Send(ctx, env, large); err == nil {
		t.Skip("the message was faster")
	}
	if err := <-got; err == nil {
		t.Error("the server saw an orderly end of the stream inside DATA")
	}
}

// Many callers share few connections, with random faults, in all four dialogues. Without a doubt nothing is lost or sent twice,
// with early heads or without.
func TestManyCallersAndFaults(t *testing.T) {
	for _, d := range dialogues {
		t.Run(d.name, func(t *testing.T) {
			var mu sync.Mutex
			n := 0
			hook := func(_ context.Context, e smtptest.Event) smtptest.Action {
				mu.Lock()
				n++
				k := n
				mu.Unlock()
				switch {
				case e.Stage == smtptest.StageDot && k%53 == 0:
					return smtptest.Action{Withhold: true, End: smtptest.Close}
				case e.Stage == smtptest.StageDot && k%47 == 0:
					return smtptest.Action{Reply: "421 4.3.2 closing", End: smtptest.Close}
				case e.Stage == smtptest.StageDot && k%43 == 0:
					return smtptest.Action{Reply: "451 4.3.0 later"}
				case e.Stage == smtptest.StageMail && k%41 == 0:
					return smtptest.Action{Reply: "421 4.3.2 closing", End: smtptest.Close}
				case e.Stage == smtptest.StageRcpt && k%37 == 0:
					return smtptest.Action{Reply: "550 5.1.1 no such user"}
				case e.Stage == smtptest.StageData && k%61 == 0:
					return smtptest.Action{End: smtptest.Reset}
				case e.Stage == smtptest.StageIdle && k%59 == 0:
					return smtptest.Action{End: smtptest.Close}
				}
				return smtptest.Action{}
			}
			srv, client := newRelay(t, smtptest.Config{TLS: smtptest.NoTLS, Extensions: d.extensions, Hook: hook},
				func(c *smtpx.Config) { c.Connections, c.MaxMessages = 4, 20 })
			type outcome struct {
				id  string
				res smtpx.Result
			}
			outcomes := make(chan outcome, 64*15)
			var wg sync.WaitGroup
			for w := range 64 {
				wg.Go(func() {
					for k := range 15 {
						id := string(rune('a'+w%26)) + string(rune('a'+w/26)) + string(rune('a'+k))
						ctx := testContext(t)
						if (w+k)%11 == 0 {
							short, cancel := context.WithTimeout(ctx, time.Duration(w)*50*time.Microsecond)
							defer cancel()
							ctx = short
						}
						res, _ := client.Send(ctx, envelope("r@example.net", id+"@example.net"), message(id))
						outcomes <- outcome{id, res}
					}
				})
			}
			wg.Wait()
			close(outcomes)
			client.Close()
			arrived := map[string]int{}
			for _, m := range srv.Messages() {
				arrived[strings.TrimSpace(string(m.Data[strings.Index(string(m.Data), "\r\n\r\n"):]))]++
			}
			for o := range outcomes {
				accepted, doubt := false, false
				for _, r := range o.res.Outcomes {
					accepted = accepted || r.Accepted
					doubt = doubt || (r.Err != nil && r.Err.Class == smtpx.ClassAmbiguous)
				}
				if n := arrived[o.id]; n > 1 || (accepted && n != 1) || (!accepted && !doubt && n != 0) {
					t.Errorf("%s arrived %d times; accepted %v, doubt %v: %+v", o.id, n, accepted, doubt, o.res.Outcomes)
				}
			}
		})
	}
}
