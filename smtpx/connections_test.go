package smtpx_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// burst sends n messages at once and waits for all of them.
func burst(t *testing.T, client *smtpx.Client, n int) {
	t.Helper()
	errs := make(chan error, n)
	for range n {
		go func() {
			_, err := client.Send(t.Context(), envelope("b@example.net"), message("hello"))
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// The number of connections follows the caller, up and down, without a message being lost.
func TestSetConnections(t *testing.T) {
	config := smtptest.Config{Latency: 100 * time.Millisecond, TLS: smtptest.NoTLS}
	opts := []smtpx.Option{func(c *smtpx.Config) {
		c.Connections, c.TLS = 2, smtpx.TLSNone
	}}
	bubble(t, config, opts, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
		burst(t, client, 40)
		synctest.Wait()
		if s := client.Stats(); s.Open != 2 || s.MaxConnections != 2 {
			t.Errorf("%d connections, at most %d; want 2", s.Open, s.MaxConnections)
		}

		client.SetConnections(5)
		burst(t, client, 100)
		synctest.Wait()
		if s := client.Stats(); s.Open != 5 || s.MaxConnections != 5 {
			t.Errorf("%d connections, at most %d; want 5", s.Open, s.MaxConnections)
		}

		client.SetConnections(0) // as good as 1
		time.Sleep(time.Second)  // of the bubble: QUIT takes its latency
		synctest.Wait()
		if s := client.Stats(); s.Open != 1 || s.Idle != 1 || s.MaxConnections != 1 {
			t.Errorf("%d connections, %d idle, at most %d; want 1", s.Open, s.Idle, s.MaxConnections)
		}
		before := len(srv.Messages())
		burst(t, client, 10)
		if s := client.Stats(); s.Open != 1 {
			t.Errorf("%d connections, want 1", s.Open)
		}
		if n := len(srv.Messages()) - before; n != 10 {
			t.Errorf("%d messages arrived, want 10", n)
		}
	})
}

// Surplus connections that are busy finish their message first. The remaining connections serve the queue.
func TestSetConnectionsUnderLoad(t *testing.T) {
	config := smtptest.Config{Latency: 100 * time.Millisecond, TLS: smtptest.NoTLS}
	opts := []smtpx.Option{func(c *smtpx.Config) {
		c.Connections, c.TLS = 8, smtpx.TLSNone
	}}
	bubble(t, config, opts, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			burst(t, client, 400)
		}()
		for _, n := range []int{3, 6, 1, 4, 2} {
			time.Sleep(1500 * time.Millisecond)
			client.SetConnections(n)
		}
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if s := client.Stats(); s.Open > 2 {
			t.Errorf("%d connections, want 2 at most", s.Open)
		}
		<-done
		if n := len(srv.Messages()); n != 400 {
			t.Errorf("%d messages arrived, want 400", n)
		}
	})
}

// The caller cannot lift a limit learnt from the server. A lower limit of the caller holds.
func TestSetConnectionsKeepsWhatWasLearnt(t *testing.T) {
	config := smtptest.Config{MaxSessions: 2, Latency: 10 * time.Millisecond, TLS: smtptest.NoTLS}
	opts := []smtpx.Option{func(c *smtpx.Config) {
		c.Connections, c.TLS = 4, smtpx.TLSNone
	}}
	bubble(t, config, opts, func(t *testing.T, _ *smtptest.Server, client *smtpx.Client) {
		burst(t, client, 50)
		if s := client.Stats(); s.MaxConnections != 2 {
			t.Fatalf("at most %d connections, want the 2 that were learnt", s.MaxConnections)
		}
		client.SetConnections(8)
		if s := client.Stats(); s.MaxConnections != 2 {
			t.Errorf("at most %d connections, want 2", s.MaxConnections)
		}
		client.SetConnections(1)
		if s := client.Stats(); s.MaxConnections != 1 {
			t.Errorf("at most %d connections, want 1", s.MaxConnections)
		}
	})
}

func TestClientTellsItsProfile(t *testing.T) {
	for url, want := range map[string]string{
		"smtp://relay.example.com":                  "generic",
		"smtp://email-smtp.eu-west-1.amazonaws.com": "ses",
		"smtp://127.0.0.1?provider=postmark":        "postmark",
	} {
		if got := open(t, url).Profile().Name; got != want {
			t.Errorf("%s has the profile %s, want %s", url, got, want)
		}
	}
}

// The caller gets the time and the scope that the reply states.
func TestErrorTellsScopeAndWait(t *testing.T) {
	srv, client := newRelay(t, smtptest.Config{Hook: func(_ context.Context, e smtptest.Event) smtptest.Action {
		if e.Stage == smtptest.StageRcpt {
			return smtptest.Action{Reply: "450 4.2.0 Greylisted, try again in 90 seconds"}
		}
		return smtptest.Action{}
	}})
	_ = srv
	_, err := client.Send(testContext(t), envelope("b@example.net"), message("hello"))
	e := asError(t, err, smtpx.StageRcpt, smtpx.ClassTransient)
	if e.RetryAfter != 90*time.Second || e.Scope() != smtpx.ScopeRecipient {
		t.Errorf("wait %v, scope %s; want 90 s, recipient", e.RetryAfter, e.Scope())
	}
	env := envelope("b@example.net")
	env.RequireTLS = true
	_, err = client.Send(testContext(t), env, message("hello"))
	if e := asError(t, err, smtpx.StageMail, smtpx.ClassConfig); e.Scope() != smtpx.ScopeMessage {
		t.Errorf("scope %s, want message: others may go on", e.Scope())
	}
}
