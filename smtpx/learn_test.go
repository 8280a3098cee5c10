package smtpx_test

import (
	"slices"
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
