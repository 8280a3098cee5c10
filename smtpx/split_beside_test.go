package smtpx_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// A message that takes several transactions does not take the head of another behind its dots. The message that waits is sent
// after it.
func TestSplitMessageBesideAnother(t *testing.T) {
	t.Parallel()
	var dialled atomic.Int64
	one := func(c *smtpx.Config) {
		c.Connections = 1
		c.Observer.Opened = func(smtpx.Opened) { dialled.Add(1) }
	}
	config := smtptest.Config{Extensions: []string{"PIPELINING", "LIMITS RCPTMAX=1"}}
	bubble(t, config, []smtpx.Option{one}, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
		smtpx.TakeEarlyHeads(client)
		second := make(chan error, 1)
		env := envelope("a@example.net", "b@example.net", "c@example.net")
		begun := false
		env.Commit = func(context.Context) error {
			if begun {
				return nil
			}
			begun = true
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
		if err := <-second; err != nil {
			t.Errorf("second: %v", err)
		}
		if n := srv.Count(); n != 4 {
			t.Errorf("%d arrived, want 4", n)
		}
		if n := dialled.Load(); n != 1 {
			t.Errorf("%d connections: a head left early that could not be followed", n)
		}
	})
}
