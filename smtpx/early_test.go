package smtpx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// A message whose head left behind the final dot of another is independent of it. Whatever the outcome of the first, the second
// is sent once or not at all.
func TestEarlyHead(t *testing.T) {
	boom := errors.New("lease lost")
	for _, tc := range []struct {
		name     string
		hook     func(context.Context, smtptest.Event) smtptest.Action
		config   smtptest.Config
		first    smtpx.Class
		second   smtpx.Class
		commit   error // of the second
		arrived  int
		sessions int
	}{
		{name: "both accepted", arrived: 2, sessions: 1},
		{name: "first refused", hook: smtptest.At(smtptest.StageDot, 1, smtptest.Action{Reply: "554 5.6.0 no"}),
			first: smtpx.ClassMessage, arrived: 1, sessions: 1},
		{name: "first deferred", hook: smtptest.At(smtptest.StageDot, 1, smtptest.Action{Reply: "451 4.3.0 later"}),
			first: smtpx.ClassTransient, arrived: 1, sessions: 1},
		{name: "connection lost behind the first dot", hook: smtptest.At(smtptest.StageDot, 1, smtptest.Action{End: smtptest.Close}),
			first: smtpx.ClassAmbiguous, arrived: 1, sessions: 2},
		{name: "first accepted in silence", hook: smtptest.At(smtptest.StageDot, 1, smtptest.Action{Withhold: true, End: smtptest.Reset}),
			first: smtpx.ClassAmbiguous, arrived: 2, sessions: 2},
		{name: "421 to the first dot", hook: smtptest.At(smtptest.StageDot, 1, smtptest.Action{Reply: "421 4.3.2 down", End: smtptest.Close}),
			first: smtpx.ClassTransient, arrived: 1, sessions: 2},
		{name: "server hangs up behind the first 250", hook: smtptest.At(smtptest.StageIdle, 1, smtptest.Action{End: smtptest.Close}),
			arrived: 2, sessions: 2},
		{name: "session cap", config: smtptest.Config{MaxMessages: 1}, arrived: 2, sessions: 2},
		{name: "sender of the second refused", hook: second(smtptest.StageMail, smtptest.Action{Reply: "550 5.7.1 sender not allowed"}),
			second: smtpx.ClassConfig, arrived: 1, sessions: 1},
		{name: "recipient of the second refused", hook: second(smtptest.StageRcpt, smtptest.Action{Reply: "550 5.1.1 no such user"}),
			second: smtpx.ClassRecipient, arrived: 1, sessions: 1},
		{name: "DATA of the second refused", hook: second(smtptest.StageData, smtptest.Action{Reply: "451 4.3.0 later"}),
			second: smtpx.ClassTransient, arrived: 1, sessions: 1},
		{name: "second not committed", commit: boom, second: smtpx.ClassRecycle, arrived: 1, sessions: 1},
		{name: "connection lost under the second MAIL", hook: second(smtptest.StageMail, smtptest.Action{End: smtptest.Close}),
			arrived: 2, sessions: 2},
		{name: "connection lost under the second RCPT", hook: second(smtptest.StageRcpt, smtptest.Action{End: smtptest.Close}),
			second: smtpx.ClassTransient, arrived: 1, sessions: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			config := tc.config
			config.Extensions, config.Hook = []string{"PIPELINING"}, tc.hook
			one := func(c *smtpx.Config) { c.Connections = 1 }
			bubble(t, config, []smtpx.Option{one}, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
				smtpx.TakeEarlyHeads(client)
				early := make(chan error, 1)
				env := envelope("first@example.net")
				env.Commit = func(context.Context) error {
					go func() {
						env := envelope("second@example.net")
						env.Commit = func(context.Context) error { return tc.commit }
						_, err := client.Send(t.Context(), env, message("second"))
						early <- err
					}()
					synctest.Wait() // the second waits for the connection now
					return nil
				}
				_, err := client.Send(t.Context(), env, message("first"))
				checkClass(t, "first", err, tc.first)
				err = <-early
				checkClass(t, "second", err, tc.second)
				if tc.commit != nil && !errors.Is(err, tc.commit) {
					t.Errorf("second: %v, want the hook's error", err)
				}
				if s := srv.Stats(); srv.Count() != tc.arrived || s.Sessions != tc.sessions {
					t.Errorf("%d messages in %d sessions, want %d in %d", srv.Count(), s.Sessions, tc.arrived, tc.sessions)
				}
			})
		})
	}
}

func checkClass(t *testing.T, which string, err error, want smtpx.Class) {
	t.Helper()
	var e *smtpx.Error
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", which, err)
	case want != "" && (!errors.As(err, &e) || e.Class != want):
		t.Errorf("%s: %v, want class %s", which, err, want)
	}
}

// A message whose head left early can be withdrawn while the server has not answered the message before it.
func TestEarlyHeadIsWithdrawn(t *testing.T) {
	config := smtptest.Config{Extensions: []string{"PIPELINING"},
		Hook: smtptest.At(smtptest.StageDot, 1, smtptest.Action{Delay: time.Minute})}
	one := func(c *smtpx.Config) { c.Connections = 1 }
	bubble(t, config, []smtpx.Option{one}, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
		smtpx.TakeEarlyHeads(client)
		type done struct {
			err  error
			took time.Duration
		}
		early := make(chan done, 1)
		env := envelope("first@example.net")
		env.Commit = func(context.Context) error {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				start := time.Now()
				_, err := client.Send(ctx, envelope("second@example.net"), message("second"))
				early <- done{err, time.Since(start)}
			}()
			synctest.Wait()
			return nil
		}
		if _, err := client.Send(t.Context(), env, message("first")); err != nil {
			t.Fatal(err)
		}
		if d := <-early; !errors.Is(d.err, context.DeadlineExceeded) || d.took != 10*time.Second {
			t.Errorf("second: %v after %v", d.err, d.took)
		}
		if _, err := client.Send(t.Context(), envelope("third@example.net"), message("third")); err != nil {
			t.Fatal(err)
		}
		if got := srv.Messages(); len(got) != 2 || got[1].To[0] != "third@example.net" {
			t.Errorf("arrived: %+v", got)
		}
	})
}

// many sends n messages at once, and returns their errors and how long each took.
func many(t *testing.T, client *smtpx.Client, n int) (errs []error, slowest time.Duration) {
	t.Helper()
	errs, took := make([]error, n), make([]time.Duration, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			start := time.Now()
			_, errs[i] = client.Send(testContext(t), envelope(fmt.Sprintf("r%d@example.net", i)), message("x"))
			took[i] = time.Since(start)
		})
	}
	wg.Wait()
	for _, d := range took {
		slowest = max(slowest, d)
	}
	return errs, slowest
}

// The first early head leaves on one connection only, and not behind the first message of that connection. The client keeps the
// result.
func TestEarlyHeadsAreEarned(t *testing.T) {
	t.Run("taken", func(t *testing.T) {
		srv, client := newRelay(t, smtptest.Config{Extensions: []string{"PIPELINING"}}, func(c *smtpx.Config) { c.Connections = 1 })
		if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
			t.Fatal(err)
		}
		if errs, _ := many(t, client, 15); errors.Join(errs...) != nil || smtpx.EarlyHeads(client) != "untried" {
			t.Fatalf("after 16 messages %s: %v", smtpx.EarlyHeads(client), errors.Join(errs...))
		}
		before := srv.Stats().MessageFlights
		if before != 32 {
			t.Errorf("%d flights for 16 messages, want 32: nothing is known yet", before)
		}
		if errs, _ := many(t, client, 40); errors.Join(errs...) != nil || smtpx.EarlyHeads(client) != "taken" {
			t.Errorf("%s: %v", smtpx.EarlyHeads(client), errors.Join(errs...))
		}
		if n := srv.Stats().MessageFlights - before; n > 60 {
			t.Errorf("%d flights for the 40 messages after, as without early heads (80)", n)
		}
	})
	for name, tc := range map[string]struct {
		behind   func(sent []byte) (string, int, bool)
		doubts   int
		sessions int
	}{
		"swallowed": {func(sent []byte) (string, int, bool) { return "", len(sent), false }, 0, 2},
		"answered with 503": {func(sent []byte) (string, int, bool) {
			return "250 ok" + strings.Repeat("\r\n503 5.5.1 bad sequence of commands", bytes.Count(sent, []byte("\n"))), len(sent), false
		}, 0, 2},
		"answered with 500": {func(sent []byte) (string, int, bool) {
			return "250 ok" + strings.Repeat("\r\n500 what?", bytes.Count(sent, []byte("\n"))), len(sent), false
		}, 0, 2},
		"its end lost": {func(sent []byte) (string, int, bool) {
			if mail := bytes.IndexByte(sent, '\n') + 1; mail > 0 {
				return "250 ok\r\n250 sender ok", len(sent), false // and nothing for RCPT and DATA
			}
			return "", 0, false
		}, 0, 2},
		"deadly": {func(sent []byte) (string, int, bool) { return "", 0, bytes.Contains(sent, []byte("RCPT")) }, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := &dialogueScript{ehlo: []string{"PIPELINING"}, behind: tc.behind}
			client := open(t, "smtp://"+s.start(t)+"?tls=none&conns=1", func(c *smtpx.Config) { c.Timeouts.Rcpt = 300 * time.Millisecond })
			errs, slowest := many(t, client, 50)
			doubts := 0
			for i, err := range errs {
				var e *smtpx.Error
				switch {
				case errors.As(err, &e) && e.Class == smtpx.ClassAmbiguous:
					doubts++
				case err != nil:
					t.Errorf("message %d: %v", i, err)
				}
			}
			sessions, bodies := s.counts()
			if doubts != tc.doubts || sessions != tc.sessions || bodies != 50 || smtpx.EarlyHeads(client) != "refused" {
				t.Errorf("%d doubts, %d sessions, %d bodies, early heads %s; want %d, %d, 50, refused",
					doubts, sessions, bodies, smtpx.EarlyHeads(client), tc.doubts, tc.sessions)
			}
			if slowest > 10*time.Second {
				t.Errorf("a message took %v", slowest)
			}
		})
	}
}

// A server gets no early heads if its greeting, its profile, or its hanging up shows that it does not take them.
func TestEarlyHeadsAreNotTried(t *testing.T) {
	for name, tc := range map[string]struct {
		config smtptest.Config
		params string
	}{
		"Haraka":             {smtptest.Config{Extensions: []string{"PIPELINING"}, Hostname: "mx.test", Hook: greeting("mx.test ESMTP Haraka/3.0.5 ready")}, ""},
		"Dovecot":            {smtptest.Config{Extensions: []string{"PIPELINING"}, Hook: greeting("mx.test Dovecot ready.")}, ""},
		"chasquid":           {smtptest.Config{Extensions: []string{"PIPELINING"}, Hook: greeting("mx.test ESMTP chasquid")}, ""},
		"a profile":          {smtptest.Config{Extensions: []string{"PIPELINING"}}, "provider=qq"},
		"one by one":         {smtptest.Config{Extensions: []string{"PIPELINING"}, MaxMessages: 1}, ""},
		"without PIPELINING": {smtptest.Config{Extensions: []string{"8BITMIME"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			srv := smtptest.New(t, tc.config)
			client := open(t, srv.URL(strings.TrimSuffix("conns=1&"+tc.params, "&")))
			errs, _ := many(t, client, 40)
			if err := errors.Join(errs...); err != nil || smtpx.EarlyHeads(client) != "untried" {
				t.Errorf("early heads %s: %v", smtpx.EarlyHeads(client), err)
			}
		})
	}
}

// greeting makes a hook that greets with a text.
func greeting(text string) func(context.Context, smtptest.Event) smtptest.Action {
	return smtptest.At(smtptest.StageBanner, -1, smtptest.Action{Reply: "220 " + text})
}

// A head of more than 4 KiB waits for the reply.
func TestLargeHeadsAreNotEarly(t *testing.T) {
	var most int
	s := &dialogueScript{ehlo: []string{"PIPELINING"}}
	s.behind = func(sent []byte) (string, int, bool) { most = max(most, len(sent)); return "", 0, false }
	client := open(t, "smtp://"+s.start(t)+"?tls=none&conns=1")
	smtpx.TakeEarlyHeads(client)
	var wg sync.WaitGroup
	for n := range 12 {
		wg.Go(func() {
			env := envelope()
			for i := range 100 {
				if n%2 == 0 && i > 20 {
					break
				}
				env.To = append(env.To, fmt.Sprintf("recipient-with-a-long-local-part-%d@a-long-domain.example.net", i))
			}
			if _, err := client.Send(testContext(t), env, message("x")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most == 0 || most > 4096 {
		t.Errorf("up to %d octets behind a final dot, want some, and at most 4096", most)
	}
}

// If the head of a message leaves early, its hook is called once, before the reply to the message before. The answer of the hook
// stays with the message. If the answer is old, the hook is called again.
func TestHookOfAnEarlyHead(t *testing.T) {
	boom := errors.New("lease lost")
	for name, tc := range map[string]struct {
		dot     smtptest.Action // to the first message
		answer  error
		calls   int
		sent    int
		hookFor time.Duration
	}{
		"agrees":                          {dot: smtptest.Action{Delay: time.Second}, calls: 1, sent: 2},
		"agrees, slowly":                  {dot: smtptest.Action{Delay: time.Second}, calls: 1, sent: 2, hookFor: 3 * time.Second},
		"refuses":                         {dot: smtptest.Action{Delay: time.Second}, answer: boom, calls: 1, sent: 1},
		"on another connection":           {dot: smtptest.Action{Delay: time.Second, Reply: "421 4.3.2 down", End: smtptest.Close}, calls: 1, sent: 1},
		"is asked again when it is old":   {dot: smtptest.Action{Delay: 6 * time.Second}, calls: 2, sent: 2},
		"refuses when the first is doubt": {dot: smtptest.Action{Delay: time.Second, End: smtptest.Close}, answer: boom, calls: 1, sent: 0},
	} {
		t.Run(name, func(t *testing.T) {
			config := smtptest.Config{Extensions: []string{"PIPELINING"}, Hook: smtptest.At(smtptest.StageDot, 1, tc.dot)}
			opts := []smtpx.Option{func(c *smtpx.Config) { c.Connections = 1 }}
			bubble(t, config, opts, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
				smtpx.TakeEarlyHeads(client)
				var called []time.Duration
				start := time.Now()
				second := make(chan error, 1)
				env := envelope("first@example.net")
				env.Commit = func(context.Context) error {
					go func() {
						env := envelope("second@example.net")
						env.Commit = func(context.Context) error {
							called = append(called, time.Since(start))
							time.Sleep(tc.hookFor)
							return tc.answer
						}
						_, err := client.Send(t.Context(), env, message("second"))
						second <- err
					}()
					synctest.Wait()
					return nil
				}
				_, _ = client.Send(t.Context(), env, message("first"))
				if err := <-second; !errors.Is(err, tc.answer) {
					t.Errorf("second: %v, want %v", err, tc.answer)
				}
				if len(called) != tc.calls || called[0] != 0 || srv.Count() != tc.sent {
					t.Errorf("called at %v, %d arrived; want %d calls, the first at once, and %d", called, srv.Count(), tc.calls, tc.sent)
				}
			})
		})
	}
}

// A message that is withdrawn leaves no hook behind.
func TestHookHasReturnedWhenSendReturns(t *testing.T) {
	config := smtptest.Config{Extensions: []string{"PIPELINING"}, Hook: smtptest.At(smtptest.StageDot, 1, smtptest.Action{Delay: time.Minute})}
	opts := []smtpx.Option{func(c *smtpx.Config) { c.Connections = 1 }}
	bubble(t, config, opts, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
		smtpx.TakeEarlyHeads(client)
		second := make(chan error, 1)
		env := envelope("first@example.net")
		env.Commit = func(context.Context) error {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				returned := false
				env := envelope("second@example.net")
				env.Commit = func(ctx context.Context) error {
					<-ctx.Done()
					time.Sleep(time.Second)
					returned = true
					return ctx.Err()
				}
				_, err := client.Send(ctx, env, message("second"))
				if !returned {
					err = errors.Join(err, errors.New("the hook runs"))
				}
				second <- err
			}()
			synctest.Wait()
			return nil
		}
		if _, err := client.Send(t.Context(), env, message("first")); err != nil {
			t.Error(err)
		}
		if err := <-second; !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "runs") || srv.Count() != 1 {
			t.Errorf("second: %v; %d arrived", err, srv.Count())
		}
	})
}
