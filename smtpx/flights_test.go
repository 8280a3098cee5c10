package smtpx_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// The turns of the dialogue cost the most time. The server counts them.
func TestFlightsPerMessage(t *testing.T) {
	for _, tc := range []struct {
		name       string
		extensions []string
		senders    int
		messages   int
		limit      float64
	}{
		{"lockstep", []string{}, 32, 640, 4},
		{"pipelining, one message at a time", []string{"PIPELINING"}, 1, 640, 2},
		{"pipelining, messages waiting", []string{"PIPELINING"}, 32, 2560, 1.05}, // early heads are earned at 2 flights a message
		{"chunking without pipelining", []string{"CHUNKING"}, 32, 640, 3},
		{"chunking, one message at a time", []string{"PIPELINING", "CHUNKING"}, 1, 640, 1},
		{"chunking, messages waiting", []string{"PIPELINING", "CHUNKING"}, 32, 640, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			srv, client := newRelay(t, smtptest.Config{Extensions: tc.extensions, Discard: true},
				func(c *smtpx.Config) { c.Connections = 2; c.MaxMessages = 1000 })
			ctx := testContext(t)
			var wg sync.WaitGroup
			for i := range tc.senders {
				wg.Go(func() {
					for n := range tc.messages / tc.senders {
						if _, err := client.Send(ctx, envelope("b@example.net"), message(fmt.Sprint(i, n))); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			if got := float64(srv.Stats().MessageFlights) / float64(tc.messages); srv.Count() != tc.messages || got > tc.limit {
				t.Errorf("%.3f flights for each of %d messages, want at most %v", got, srv.Count(), tc.limit)
			}
		})
	}
}

// TCP, TLS and the greeting take a round trip each besides those that are counted here.
func TestFlightsOfSetUp(t *testing.T) {
	for name, tc := range map[string]struct {
		config smtptest.Config
		params string
		want   int
	}{
		"implicit TLS, PLAIN": {smtptest.Config{TLS: smtptest.ImplicitTLS}, "auth=plain", 2},
		"implicit TLS, LOGIN": {smtptest.Config{TLS: smtptest.ImplicitTLS}, "auth=login", 4},
		"STARTTLS, PLAIN":     {smtptest.Config{}, "auth=plain", 4},
	} {
		t.Run(name, func(t *testing.T) {
			tc.config.User, tc.config.Password = "app", "s3cret"
			srv := smtptest.New(t, tc.config)
			client := open(t, srv.URL(tc.params))
			if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
				t.Fatal(err)
			}
			if s := srv.Stats(); s.Flights-s.MessageFlights != tc.want {
				t.Errorf("%d flights, want %d", s.Flights-s.MessageFlights, tc.want)
			}
		})
	}
}
