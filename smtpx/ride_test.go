package smtpx_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// A message whose envelope rides behind the final dot of another stands on its own: whatever becomes of the first, the
// second is sent once, or not at all.
func TestRider(t *testing.T) {
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
			one := func(c *smtpx.Config) { c.Conns = 1 }
			bubble(t, config, []smtpx.Option{one}, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
				rider := make(chan error, 1)
				env := envelope("first@example.net")
				env.Commit = func(context.Context) error {
					go func() {
						env := envelope("second@example.net")
						env.Commit = func(context.Context) error { return tc.commit }
						_, err := client.Send(t.Context(), env, message("second"))
						rider <- err
					}()
					synctest.Wait() // the second waits for the connection now
					return nil
				}
				_, err := client.Send(t.Context(), env, message("first"))
				checkClass(t, "first", err, tc.first)
				err = <-rider
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

// A rider can be withdrawn while the server takes its time over the message before it.
func TestRiderIsWithdrawn(t *testing.T) {
	config := smtptest.Config{Extensions: []string{"PIPELINING"},
		Hook: smtptest.At(smtptest.StageDot, 1, smtptest.Action{Delay: time.Minute})}
	one := func(c *smtpx.Config) { c.Conns = 1 }
	bubble(t, config, []smtpx.Option{one}, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
		type done struct {
			err  error
			took time.Duration
		}
		rider := make(chan done, 1)
		env := envelope("first@example.net")
		env.Commit = func(context.Context) error {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				start := time.Now()
				_, err := client.Send(ctx, envelope("second@example.net"), message("second"))
				rider <- done{err, time.Since(start)}
			}()
			synctest.Wait()
			return nil
		}
		if _, err := client.Send(t.Context(), env, message("first")); err != nil {
			t.Fatal(err)
		}
		if d := <-rider; !errors.Is(d.err, context.DeadlineExceeded) || d.took != 10*time.Second {
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
