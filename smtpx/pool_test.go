package smtpx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

func TestConnectionIsReused(t *testing.T) {
	srv, client := newRelay(t, smtptest.Config{})
	for range 5 {
		if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
			t.Fatal(err)
		}
	}
	if got := srv.Stats().Sessions; got != 1 {
		t.Errorf("%d sessions, want 1", got)
	}
}

func TestConnectionIsReplacedAfterItsMessages(t *testing.T) {
	srv, client := newRelay(t, smtptest.Config{}, func(c *smtpx.Config) { c.MaxMessages = 2 })
	for range 5 {
		if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
			t.Fatal(err)
		}
	}
	if got := srv.Stats().Sessions; got != 3 {
		t.Errorf("%d sessions, want 3", got)
	}
}

func TestPoolKeepsItsLimitAndMatchesReplies(t *testing.T) {
	for name, extensions := range map[string][]string{
		"lockstep":   {"8BITMIME"},
		"pipelining": {"PIPELINING"},
		"chunking":   {"PIPELINING", "CHUNKING"},
	} {
		t.Run(name, func(t *testing.T) {
			const senders, each, conns = 64, 8, 4
			srv, client := newRelay(t, smtptest.Config{Extensions: extensions}, func(c *smtpx.Config) {
				c.Connections = conns
				c.MaxMessages = 37
			})
			ids := make([]sync.Map, senders)
			var wg sync.WaitGroup
			for i := range senders {
				wg.Go(func() {
					for n := range each {
						subject := fmt.Sprintf("%d-%d", i, n)
						body := message(subject, strings.Repeat("x", rand.IntN(3000)))
						result, err := client.Send(testContext(t), envelope(subject+"@example.net"), body)
						if err != nil {
							t.Errorf("%s: %v", subject, err)
							return
						}
						ids[i].Store(result.ProviderID, subject)
					}
				})
			}
			wg.Wait()
			got := srv.Messages()
			if len(got) != senders*each {
				t.Fatalf("%d messages arrived, want %d", len(got), senders*each)
			}
			for _, m := range got {
				subject, _, _ := strings.Cut(m.To[0], "@")
				var i int
				if _, err := fmt.Sscanf(subject, "%d-", &i); err != nil {
					t.Fatal(err)
				}
				if known, _ := ids[i].Load(m.ID); known != subject {
					t.Errorf("message %s was reported to %v", subject, known)
				}
				if !bytes.Contains(m.Data, []byte("\r\n\r\n"+subject+"\r\n")) {
					t.Errorf("message %s has another's body", subject)
				}
			}
			if peak := srv.Stats().Peak; peak > conns {
				t.Errorf("%d sessions at a time, want at most %d", peak, conns)
			}
		})
	}
}

// bubble runs a test in a synctest bubble. The server is reached through memory.
func bubble(t *testing.T, config smtptest.Config, opts []smtpx.Option,
	test func(t *testing.T, srv *smtptest.Server, client *smtpx.Client),
) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		config.NoListen = true
		srv := smtptest.New(t, config)
		client := open(t, srv.URL(), append(opts, func(c *smtpx.Config) { c.Dial = srv.Dial })...)
		test(t, srv, client)
	})
}

func TestIdleConnectionIsClosed(t *testing.T) {
	bubble(t, smtptest.Config{}, nil, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
		if _, err := client.Send(t.Context(), envelope("b@example.net"), message("x")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(29 * time.Second)
		synctest.Wait()
		if open := srv.Stats().Open; open != 1 {
			t.Fatalf("%d sessions open after 29 s, want 1", open)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if open := srv.Stats().Open; open != 0 {
			t.Errorf("%d sessions open after 31 s, want 0", open)
		}
	})
}

func TestConnectionIsReplacedAtItsAge(t *testing.T) {
	bubble(t, smtptest.Config{}, nil, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
		for range 20 {
			if _, err := client.Send(t.Context(), envelope("b@example.net"), message("x")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Second)
		}
		if got := srv.Stats().Sessions; got != 2 {
			t.Errorf("%d sessions in 400 s, want 2", got)
		}
	})
}

func TestRateIsKept(t *testing.T) {
	bubble(t, smtptest.Config{}, []smtpx.Option{func(c *smtpx.Config) { c.Rate = 10 }},
		func(t *testing.T, _ *smtptest.Server, client *smtpx.Client) {
			start := time.Now()
			var wg sync.WaitGroup
			for range 51 {
				wg.Go(func() {
					if _, err := client.Send(t.Context(), envelope("b@example.net"), message("x")); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if took := time.Since(start); took < 4800*time.Millisecond || took > 5100*time.Millisecond {
				t.Errorf("51 messages at 10 per second took %v", took)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			_, err := client.Send(ctx, envelope("b@example.net"), message("x"))
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want the context's", err)
			}
		})
}

// A connection that the server closed while it was idle is noticed without asking it.
func TestServerHangsUpInIdle(t *testing.T) {
	for name, action := range map[string]smtptest.Action{
		"FIN":         {End: smtptest.Close},
		"RST":         {End: smtptest.Reset},
		"421 and FIN": {Reply: "421 4.4.2 idle for too long", End: smtptest.Close},
		"421":         {Reply: "421 4.4.2 idle for too long"},
		"garbage":     {Raw: "\x00\x01\x02 what is this\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			srv, client := newRelay(t, smtptest.Config{Hook: smtptest.At(smtptest.StageIdle, -1, action)})
			for n := range 20 {
				if result, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil || !result.Outcomes[0].Accepted {
					t.Fatalf("message %d: %v", n, err)
				}
			}
			if srv.Count() != 20 {
				t.Errorf("%d messages arrived, want 20", srv.Count())
			}
		})
	}
}

// second takes an action the second time that a stage is reached.
func second(stage smtptest.Stage, action smtptest.Action) func(context.Context, smtptest.Event) smtptest.Action {
	var n atomic.Int32
	return func(_ context.Context, e smtptest.Event) smtptest.Action {
		if e.Stage == stage && n.Add(1) == 2 {
			return action
		}
		return smtptest.Action{}
	}
}

func TestKeptConnectionThatDiesUnderMAILIsReplaced(t *testing.T) {
	for name, action := range map[string]smtptest.Action{
		"FIN": {End: smtptest.Close},
		"RST": {End: smtptest.Reset},
	} {
		for _, extensions := range [][]string{nil, {}, {"PIPELINING", "CHUNKING"}} {
			t.Run(fmt.Sprint(name, extensions), func(t *testing.T) {
				srv, client := newRelay(t, smtptest.Config{Extensions: extensions, Hook: second(smtptest.StageMail, action)})
				for range 2 {
					_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
					if len(extensions) == 2 && err != nil {
						// The whole message had left with MAIL: nobody knows.
						wantError(t, err, smtpx.StageDot, smtpx.ClassAmbiguous)
						return
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				if srv.Count() != 2 || srv.Stats().Sessions != 2 {
					t.Errorf("%d messages in %d sessions, want 2 in 2", srv.Count(), srv.Stats().Sessions)
				}
			})
		}
	}
}

// A connection that was idle for a while must show that it is alive before it gets a whole message.
func TestQuietConnectionIsNotTrustedWithABody(t *testing.T) {
	config := smtptest.Config{Extensions: []string{"PIPELINING", "CHUNKING"},
		Hook: second(smtptest.StageMail, smtptest.Action{End: smtptest.Close})}
	bubble(t, config, nil, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
		for range 2 {
			if _, err := client.Send(t.Context(), envelope("b@example.net"), message("x")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
		}
		if srv.Count() != 2 {
			t.Errorf("%d messages arrived, want 2", srv.Count())
		}
	})
}

func TestSessionCapOfTheServerIsNotNoticed(t *testing.T) {
	for _, extensions := range [][]string{nil, {}, {"PIPELINING", "CHUNKING"}} {
		t.Run(fmt.Sprint(extensions), func(t *testing.T) {
			srv, client := newRelay(t, smtptest.Config{MaxMessages: 3, Extensions: extensions})
			for n := range 10 {
				if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
					t.Fatalf("message %d: %v", n, err)
				}
			}
			if srv.Count() != 10 {
				t.Errorf("%d messages arrived, want 10", srv.Count())
			}
		})
	}
}

func TestSendGivesUpWaitingForAConnection(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	srv, client := newRelay(t, smtptest.Config{Hook: func(ctx context.Context, e smtptest.Event) smtptest.Action {
		if e.Stage == smtptest.StageDot {
			close(arrived)
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
		return smtptest.Action{}
	}}, func(c *smtpx.Config) { c.Connections = 1 })
	first := make(chan error, 1)
	go func() {
		_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
		first <- err
	}()
	<-arrived
	for _, cause := range []error{context.Canceled, context.DeadlineExceeded} {
		ctx, cancel := context.WithTimeout(testContext(t), 20*time.Millisecond)
		class := smtpx.ClassTransient
		if errors.Is(cause, context.Canceled) {
			cancel()
			class = smtpx.ClassRecycle
		}
		result, err := client.Send(ctx, envelope("c@example.net"), message("x"))
		cancel()
		if !errors.Is(err, cause) {
			t.Errorf("error %v, want %v", err, cause)
		}
		var e *smtpx.Error
		if !errors.As(err, &e) || (e.Class != class && e.Class != smtpx.ClassUnreachable) {
			t.Errorf("error %v, want class %s", err, class)
		}
		if len(result.Outcomes) != 1 || result.Outcomes[0].Err == nil {
			t.Errorf("outcomes %+v", result.Outcomes)
		}
	}
	close(release)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if srv.Count() != 1 {
		t.Errorf("%d messages arrived, want 1", srv.Count())
	}
}

func TestSendersAreServedInTurn(t *testing.T) {
	bubble(t, smtptest.Config{Latency: time.Millisecond}, []smtpx.Option{func(c *smtpx.Config) { c.Connections = 1 }},
		func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
			var wg sync.WaitGroup
			for n := range 30 {
				wg.Go(func() {
					if _, err := client.Send(t.Context(), envelope(fmt.Sprintf("%02d@example.net", n)), message("x")); err != nil {
						t.Error(err)
					}
				})
				synctest.Wait() // it waits in the queue now
			}
			wg.Wait()
			for n, m := range srv.Messages() {
				if want := fmt.Sprintf("%02d@example.net", n); m.To[0] != want {
					t.Fatalf("message %d is %s, want %s", n, m.To[0], want)
				}
			}
		})
}

func TestCloseLetsRunningSendsFinish(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	srv, client := newRelay(t, smtptest.Config{Hook: func(_ context.Context, e smtptest.Event) smtptest.Action {
		if e.Stage == smtptest.StageDot {
			close(arrived)
			<-release
		}
		return smtptest.Action{}
	}}, func(c *smtpx.Config) { c.Connections = 1 })
	first, second, closed := make(chan error, 1), make(chan error, 1), make(chan struct{})
	go func() {
		_, err := client.Send(context.Background(), envelope("b@example.net"), message("x"))
		first <- err
	}()
	<-arrived
	go func() {
		_, err := client.Send(context.Background(), envelope("c@example.net"), message("x"))
		second <- err
	}()
	go func() {
		client.Close()
		close(closed)
	}()
	if err := <-second; !errors.Is(err, smtpx.ErrClosed) {
		t.Errorf("a waiting Send: %v, want ErrClosed", err)
	}
	select {
	case <-closed:
		t.Error("Close returned before a running Send")
	default:
	}
	close(release)
	if err := <-first; err != nil {
		t.Errorf("a running Send: %v", err)
	}
	<-closed
	if _, err := client.Send(context.Background(), envelope("d@example.net"), message("x")); !errors.Is(err, smtpx.ErrClosed) {
		t.Errorf("Send after Close: %v, want ErrClosed", err)
	}
	if _, err := client.Probe(context.Background()); !errors.Is(err, smtpx.ErrClosed) {
		t.Errorf("Probe after Close: %v, want ErrClosed", err)
	}
	if srv.Count() != 1 {
		t.Errorf("%d messages arrived, want 1", srv.Count())
	}
	client.Close()
}

func TestCloseEndsADial(t *testing.T) {
	dialing := make(chan struct{})
	client := open(t, "smtp://relay.example.com", func(c *smtpx.Config) {
		c.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			close(dialing)
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	sent := make(chan error, 1)
	go func() {
		_, err := client.Send(context.Background(), envelope("b@example.net"), message("x"))
		sent <- err
	}()
	<-dialing
	client.Close()
	if err := <-sent; !errors.Is(err, smtpx.ErrClosed) {
		t.Errorf("error %v, want ErrClosed", err)
	}
}

// A relay that refuses the login is not tried once per waiting message.
func TestFailedLoginIsNotRepeatedForEveryMessage(t *testing.T) {
	srv := smtptest.New(t, smtptest.Config{User: "app", Password: "s3cret", Latency: 5 * time.Millisecond})
	client := open(t, srv.URLFor("app", "wrong", "conns=8"))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
			wantError(t, err, smtpx.StageAuth, smtpx.ClassConfig)
		})
	}
	wg.Wait()
	if got := srv.Stats(); got.Peak != 1 {
		t.Errorf("%d logins at a time", got.Peak)
	}
}

// If the server takes fewer connections than the pool wants, the connections that it takes serve the queue.
func TestServerTakesFewerConnections(t *testing.T) {
	srv, client := newRelay(t, smtptest.Config{MaxSessions: 2, Latency: time.Millisecond}, func(c *smtpx.Config) { c.Connections = 6 })
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if srv.Count() != 40 {
		t.Errorf("%d messages arrived, want 40", srv.Count())
	}
}

// A connection with an unanswered QUIT gives up its place in the pool. Close waits for it at most until its limit.
func TestUnansweredQuitKeepsNoPlace(t *testing.T) {
	config := smtptest.Config{Hook: smtptest.At(smtptest.StageQuit, -1, smtptest.Action{End: smtptest.Stall})}
	opts := []smtpx.Option{func(c *smtpx.Config) { c.Connections, c.MaxMessages = 1, 1 }}
	bubble(t, config, opts, func(t *testing.T, _ *smtptest.Server, client *smtpx.Client) {
		start := time.Now()
		for range 5 {
			if _, err := client.Send(t.Context(), envelope("b@example.net"), message("x")); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("5 messages took %v", took)
		}
		start = time.Now()
		client.Close()
		if took := time.Since(start); took > 3*time.Second || client.Stats().Open != 0 {
			t.Errorf("Close took %v, %d connections are open", took, client.Stats().Open)
		}
	})
}

// A message with several transactions does not block another that waits.
func TestSplitBesideAnother(t *testing.T) {
	config := smtptest.Config{Extensions: []string{"PIPELINING", "LIMITS RCPTMAX=1"}}
	bubble(t, config, []smtpx.Option{func(c *smtpx.Config) { c.Connections = 1 }},
		func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
			smtpx.TakeEarlyHeads(client)
			second := make(chan error, 1)
			env := envelope("a@example.net", "b@example.net", "c@example.net")
			env.Commit = func(context.Context) error {
				go func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
					defer cancel()
					_, err := client.Send(ctx, envelope("second@example.net"), message("second"))
					second <- err
				}()
				synctest.Wait()
				return nil
			}
			if _, err := client.Send(t.Context(), env, message("first")); err != nil {
				t.Error(err)
			}
			if err := <-second; err != nil || srv.Count() != 4 {
				t.Errorf("second: %v; %d arrived, want 4", err, srv.Count())
			}
		})
}

// The context ends while the hook runs, and the hook still agrees. Nothing more is written, and no caller waits for the
// connection.
func TestContextEndsInTheHook(t *testing.T) {
	for _, d := range dialogues {
		t.Run(d.name, func(t *testing.T) {
			opts := []smtpx.Option{func(c *smtpx.Config) { c.Connections = 1 }}
			bubble(t, smtptest.Config{Extensions: d.extensions}, opts, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				second := make(chan error, 1)
				env := envelope("first@example.net")
				env.Commit = func(context.Context) error {
					go func() {
						_, err := client.Send(t.Context(), envelope("second@example.net"), message("second"))
						second <- err
					}()
					synctest.Wait()
					cancel()
					return nil
				}
				start := time.Now()
				_, err := client.Send(ctx, env, message("first"))
				if !d.flight && err == nil {
					t.Error("first was sent")
				}
				if err := <-second; err != nil || time.Since(start) > time.Second {
					t.Errorf("second: %v after %v", err, time.Since(start))
				}
				if got := srv.Messages(); got[len(got)-1].To[0] != "second@example.net" || len(got[len(got)-1].To) != 1 {
					t.Errorf("arrived %+v", got)
				}
			})
		})
	}
}

// Shutdown waits for the reply to a final dot at most until its context ends, and then reports the outcome.
func TestShutdownHasAnEnd(t *testing.T) {
	for _, d := range dialogues {
		for _, tc := range []struct {
			stage    smtptest.Stage
			action   smtptest.Action
			patience time.Duration
			class    smtpx.Class
		}{
			{smtptest.StageDot, smtptest.Action{Delay: time.Minute}, 10 * time.Second, smtpx.ClassAmbiguous},
			{smtptest.StageDot, smtptest.Action{Delay: time.Second}, 10 * time.Second, ""},
			{smtptest.StageEHLO, smtptest.Action{Delay: time.Minute}, 10 * time.Second, smtpx.ClassRecycle},
		} {
			t.Run(fmt.Sprint(d.name, tc.stage, tc.action.Delay), func(t *testing.T) {
				config := smtptest.Config{TLS: smtptest.NoTLS, Extensions: d.extensions, Hook: smtptest.At(tc.stage, 1, tc.action)}
				bubble(t, config, nil, func(t *testing.T, _ *smtptest.Server, client *smtpx.Client) {
					sent := make(chan error, 1)
					go func() {
						_, err := client.Send(t.Context(), envelope("b@example.net"), message("x"))
						sent <- err
					}()
					synctest.Wait()
					ctx, cancel := context.WithTimeout(t.Context(), tc.patience)
					defer cancel()
					start := time.Now()
					err := client.Shutdown(ctx)
					if took := time.Since(start); took > tc.patience || (tc.class == smtpx.ClassAmbiguous) != errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("Shutdown took %v: %v", took, err)
					}
					checkClass(t, "the message", <-sent, tc.class)
					if _, err := client.Send(t.Context(), envelope("b@example.net"), message("x")); !errors.Is(err, smtpx.ErrClosed) {
						t.Errorf("afterwards: %v", err)
					}
				})
			})
		}
	}
}
