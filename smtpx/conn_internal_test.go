package smtpx

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// A new connection that the server ends before the first command gives a verdict. If it were only replaced, as an old one is, a
// relay that ends all of them would be dialled without pause.
func TestNewConnectionThatEndsAtOnceIsAVerdict(t *testing.T) {
	for name, tc := range map[string]struct {
		raw   string
		class Class
	}{
		"end of stream": {"250 relay.test\r\n", ClassTransient},
		"refusal":       {"250 relay.test\r\n421 4.7.0 too many concurrent connections\r\n", ClassThrottled},
		"out of turn":   {"250 relay.test\r\n250 ok\r\n", ClassTransient},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := smtptest.New(t, smtptest.Config{TLS: smtptest.NoTLS, NoListen: true,
					Hook: smtptest.At(smtptest.StageEHLO, -1, smtptest.Action{Raw: tc.raw, End: smtptest.Close})})
				client, err := Open(srv.URL("conns=1", "ehlo=client.example.com"), func(c *Config) { c.Dial = srv.Dial })
				if err != nil {
					t.Fatal(err)
				}
				s, failed := openSession(t.Context(), client.relay)
				if failed != nil {
					t.Fatal(failed)
				}
				client.pool.open = 1
				c := newConn(s, client.pool)
				j, failed := newJob(context.Background(), Envelope{From: "a@example.com", To: []string{"b@example.net"}}, func() (body, error) { return checkBody([]byte("A: b\r\n")) })
				if failed != nil {
					t.Fatal(failed)
				}
				client.pool.dialing = 1
				if err := client.pool.submit(j); err != nil {
					t.Fatal(err)
				}
				synctest.Wait() // the reader has the end
				if tr := c.next(nil); tr != nil {
					t.Error("the connection goes on")
				}
				c.end()
				select {
				case <-j.done:
				default:
					t.Fatal("the job is back in the queue")
				}
				if _, err := j.result(); err == nil || err.(*Error).Class != tc.class { //nolint:errorlint // as it was made
					t.Errorf("error %v, want class %s", err, tc.class)
				}
			})
		})
	}
}
