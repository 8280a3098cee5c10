package smtpx_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// learned collects what a pool learns.
type learned struct {
	mu  sync.Mutex
	all []smtpx.Learned
}

func (l *learned) option(c *smtpx.Config) {
	c.Observer.Learned = func(e smtpx.Learned) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.all = append(l.all, e)
	}
}

func (l *learned) list() []smtpx.Learned {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

func TestSessionCapIsLearnt(t *testing.T) {
	var l learned
	var stats func() smtpx.Stats
	asking := func(c *smtpx.Config) { // an observer may ask the client
		next := c.Observer.Learned
		c.Observer.Learned = func(e smtpx.Learned) { stats(); next(e) }
	}
	srv, client := newRelay(t, smtptest.Config{MaxMessages: 3}, l.option, asking)
	stats = client.Stats
	for range 12 {
		if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
			t.Fatal(err)
		}
	}
	if got := client.Stats().MaxMessages; got != 3 {
		t.Errorf("the limit is %d, want 3", got)
	}
	client.Close() // the observer has heard everything then
	if all := l.list(); len(all) != 1 || all[0].Effect != smtpx.EffectSessionCap || all[0].Value != 3 || all[0].Reply.Code != 421 {
		t.Errorf("learnt %+v", all)
	}
	// Once it was refused, then it knew: 3 and the refused one, 3, 3, 3.
	if got := srv.Stats().Sessions; got != 4 {
		t.Errorf("%d sessions, want 4", got)
	}
}

func TestConnectionCapIsLearntAndRecovers(t *testing.T) {
	var l learned
	config := smtptest.Config{MaxSessions: 2, Latency: time.Millisecond}
	opts := []smtpx.Option{l.option, func(c *smtpx.Config) { c.Connections = 6 }}
	bubble(t, config, opts, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
		burst := func() {
			var wg sync.WaitGroup
			for range 60 {
				wg.Go(func() {
					if _, err := client.Send(t.Context(), envelope("b@example.net"), message("x")); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}
		burst()
		synctest.Wait()
		if got, all := client.Stats().MaxConnections, l.list(); got != 2 || len(all) == 0 || all[0].Effect != smtpx.EffectConnectionCap {
			t.Errorf("the limit is %d, want 2; learnt %+v", got, all)
		}
		refused := srv.Stats().Sessions
		burst()
		if got := srv.Stats().Sessions; got > refused {
			t.Errorf("%d sessions more than the server takes were tried", got-refused)
		}
		time.Sleep(11 * time.Minute)
		burst()
		if got := srv.Stats().Peak; got < 3 {
			t.Errorf("after a while no further connection was tried: %d at a time", got)
		}
	})
}

func TestIdleLimitIsLearnt(t *testing.T) {
	for name, config := range map[string]smtptest.Config{
		"with 421":   {IdleTimeout: 10 * time.Second},
		"in silence": {Hook: smtptest.At(smtptest.StageIdle, 2, smtptest.Action{Delay: 10 * time.Second, End: smtptest.Close})},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, config, nil, func(t *testing.T, _ *smtptest.Server, client *smtpx.Client) {
				for _, want := range []time.Duration{30 * time.Second, 8 * time.Second} {
					if _, err := client.Send(t.Context(), envelope("b@example.net"), message("x")); err != nil {
						t.Fatal(err)
					}
					time.Sleep(15 * time.Second)
					synctest.Wait()
					if got := client.Stats().IdleLimit; got != want {
						t.Errorf("the limit is %v, want %v", got, want)
					}
				}
				if _, err := client.Send(t.Context(), envelope("b@example.net"), message("x")); err != nil {
					t.Fatal(err)
				}
				time.Sleep(9 * time.Second)
				synctest.Wait()
				if got := client.Stats().Open; got != 0 {
					t.Errorf("%d connections are open after 9 s", got)
				}
			})
		})
	}
}

// A server that hangs up behind every message teaches no idle limit.
func TestHangingUpAtOnceIsNoIdleLimit(t *testing.T) {
	_, client := newRelay(t, smtptest.Config{Hook: smtptest.At(smtptest.StageIdle, -1, smtptest.Action{End: smtptest.Close})})
	for range 5 {
		if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
			t.Fatal(err)
		}
	}
	if got := client.Stats().IdleLimit; got != 30*time.Second {
		t.Errorf("the limit is %v, want 30s", got)
	}
}

func TestProfileLimits(t *testing.T) {
	for url, want := range map[string]smtpx.Stats{
		"smtp://relay.example.com":                             {MaxConnections: 4, MaxMessages: 100, IdleLimit: 30 * time.Second},
		"smtp://email-smtp.eu-west-1.amazonaws.com":            {MaxConnections: 4, MaxMessages: 100, IdleLimit: 8 * time.Second},
		"smtp://smtp.office365.com":                            {MaxConnections: 3, MaxMessages: 100, IdleLimit: 30 * time.Second},
		"smtp://relay.example.com?provider=m365":               {MaxConnections: 3, MaxMessages: 100, IdleLimit: 30 * time.Second},
		"smtp://smtp.office365.com?conns=9&messages=7&idle=1m": {MaxConnections: 9, MaxMessages: 7, IdleLimit: time.Minute},
		"smtp://smtp.mailgun.org":                              {MaxConnections: 4, MaxMessages: 100, IdleLimit: 30 * time.Second},
	} {
		if got := open(t, url).Stats(); got != want {
			t.Errorf("%s: %+v, want %+v", url, got, want)
		}
	}
}

// One odd reply teaches nothing, and what was learnt is forgotten when it is not seen any more.
func TestLimitsNeedTwoWitnessesAndExpire(t *testing.T) {
	t.Run("messages", func(t *testing.T) {
		full := 0
		config := smtptest.Config{Hook: func(_ context.Context, e smtptest.Event) smtptest.Action {
			if e.Stage == smtptest.StageMail && e.Session.Messages == 2 && full > 0 {
				full--
				return smtptest.Action{Reply: "421 4.7.0 too many messages in this session", End: smtptest.Close}
			}
			return smtptest.Action{}
		}}
		bubble(t, config, nil, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
			send := func(n int) {
				for range n {
					if _, err := client.Send(t.Context(), envelope("b@example.net"), message("x")); err != nil {
						t.Fatal(err)
					}
				}
			}
			full = 1
			send(20)
			if got := client.Stats().MaxMessages; got != 100 || srv.Stats().Sessions != 2 {
				t.Errorf("after one refusal the limit is %d, %d sessions", got, srv.Stats().Sessions)
			}
			time.Sleep(time.Minute) // the next connection is new
			full = 1
			send(3)
			if got := client.Stats().MaxMessages; got != 2 {
				t.Errorf("after two refusals the limit is %d, want 2", got)
			}
			time.Sleep(61 * time.Minute)
			if got := client.Stats().MaxMessages; got != 100 {
				t.Errorf("after an hour without one the limit is %d", got)
			}
			full = 1
			send(3)
			if got := client.Stats().MaxMessages; got != 2 {
				t.Errorf("when it is seen again the limit is %d, want 2", got)
			}
		})
	})
	for name, tc := range map[string]struct {
		byes  []smtptest.Action // after each message, in turn
		conns int
		want  time.Duration
	}{
		"one end":                    {[]smtptest.Action{{Delay: 5 * time.Second, End: smtptest.Close}}, 1, 30 * time.Second},
		"two that agree":             {[]smtptest.Action{{Delay: 5 * time.Second, End: smtptest.Close}, {Delay: 5 * time.Second, End: smtptest.Close}}, 1, 4 * time.Second},
		"two that do not":            {[]smtptest.Action{{Delay: 5 * time.Second, End: smtptest.Close}, {Delay: 15 * time.Second, End: smtptest.Close}}, 1, 30 * time.Second},
		"two shutdowns":              {[]smtptest.Action{{Delay: 5 * time.Second, Reply: "421 4.3.2 Service shutting down", End: smtptest.Close}, {Delay: 5 * time.Second, Reply: "421 relay is going down for maintenance", End: smtptest.Close}}, 1, 30 * time.Second},
		"all connections at once":    {[]smtptest.Action{{Delay: 5 * time.Second, End: smtptest.Close}, {Delay: 5 * time.Second, End: smtptest.Close}}, 2, 30 * time.Second},
		"as soon as it was answered": {[]smtptest.Action{{End: smtptest.Close}, {End: smtptest.Close}, {End: smtptest.Close}}, 1, 30 * time.Second},
	} {
		t.Run("idle, "+name, func(t *testing.T) {
			var mu sync.Mutex
			byes := slices.Clone(tc.byes)
			config := smtptest.Config{Latency: time.Millisecond, Hook: func(_ context.Context, e smtptest.Event) smtptest.Action {
				mu.Lock()
				defer mu.Unlock()
				if e.Stage != smtptest.StageIdle || len(byes) == 0 {
					return smtptest.Action{}
				}
				a := byes[0]
				byes = byes[1:]
				return a
			}}
			opts := []smtpx.Option{func(c *smtpx.Config) { c.Connections = tc.conns }}
			bubble(t, config, opts, func(t *testing.T, _ *smtptest.Server, client *smtpx.Client) {
				for range len(tc.byes) / tc.conns {
					burst(t, client, tc.conns)
					time.Sleep(20 * time.Second)
				}
				synctest.Wait()
				if got := client.Stats().IdleLimit; got != tc.want {
					t.Errorf("the limit is %v, want %v", got, tc.want)
				}
			})
		})
	}
}

// A full mailbox among other recipients is no limit of recipients.
func TestOneRefusedRecipientIsNoLimit(t *testing.T) {
	for _, extensions := range [][]string{{"8BITMIME"}, {"PIPELINING"}, {"CHUNKING"}, {"PIPELINING", "CHUNKING"}} {
		for _, reply := range []string{"452 mailbox full", "452 not now", "552 no", "452 4.2.2 mailbox full"} {
			for _, last := range []bool{false, true} {
				s := &dialogueScript{ehlo: extensions}
				s.replies = func(_ int, _, l string) (string, bool) { return reply, strings.HasPrefix(l, "RCPT TO:<full@") }
				client := open(t, "smtp://"+s.start(t)+"?tls=none&conns=1")
				to := []string{"a@example.net", "full@example.net", "c@example.net"}
				if last {
					to[1], to[2] = to[2], to[1]
				}
				res, err := client.Send(testContext(t), envelope(to...), message("x"))
				if err == nil || !res.Outcomes[0].Accepted {
					t.Errorf("%q %s: %v, outcomes %+v", extensions, reply, err, res.Outcomes)
				}
				_, before := s.counts()
				if _, err := client.Send(testContext(t), envelope("a@example.net", "b@example.net", "c@example.net", "d@example.net"), message("x")); err != nil {
					t.Fatal(err)
				}
				if _, after := s.counts(); after != before+1 {
					t.Errorf("%q %s: the next message went as %d transactions", extensions, reply, after-before)
				}
			}
		}
	}
}
