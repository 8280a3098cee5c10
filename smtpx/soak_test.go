package smtpx_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxmail/outbox/internal/campaign"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

var soak = flag.Duration("soak", 0, "how long TestSoak sends; 0 for a second, and for 40 where OUTBOX_CAMPAIGN is set")

func soakTime() time.Duration {
	switch {
	case *soak > 0:
		return *soak
	case campaign.On():
		return 40 * time.Second
	}
	return time.Second
}

// TestSoak sends from 64 goroutines over 4 connections. At random the server refuses, hangs up, or takes a message without a
// reply. The test compares every result with the ledger. An accepted message is there once, a refused one is not there, and only
// a message in doubt may be either.
func TestSoak(t *testing.T) {
	actions := []smtptest.Action{
		{Reply: "451 4.3.0 later"}, {Reply: "550 5.7.0 no"}, {End: smtptest.Close}, {End: smtptest.Reset},
		{Reply: "421 4.3.2 closing", End: smtptest.Close}, {Raw: "garbage\r\n"}, {Trickle: true},
	}
	hook := func(_ context.Context, e smtptest.Event) smtptest.Action {
		switch {
		case rand.IntN(200) > 0 || e.Stage == smtptest.StageTLS:
			return smtptest.Action{}
		case e.Stage == smtptest.StageDot && rand.IntN(3) == 0:
			return smtptest.Action{Withhold: true, End: smtptest.Close}
		}
		return actions[rand.IntN(len(actions))]
	}
	for _, d := range dialogues {
		t.Run(d.name, func(t *testing.T) {
			// The server sees a connection for a moment longer than the client has it.
			var open, peak atomic.Int64
			observe := func(c *smtpx.Config) {
				c.Connections = 4
				c.Observer.Opened = func(smtpx.Opened) {
					for n := open.Add(1); ; {
						if p := peak.Load(); n <= p || peak.CompareAndSwap(p, n) {
							return
						}
					}
				}
				c.Observer.Closed = func(smtpx.Closed) { open.Add(-1) }
			}
			srv, client := newRelay(t, smtptest.Config{Extensions: d.extensions, Hook: hook}, observe)
			var (
				mu       sync.Mutex
				outcomes = map[string]error{}
				wg       sync.WaitGroup
			)
			deadline := time.Now().Add(soakTime() / time.Duration(len(dialogues)))
			for i := range 64 {
				wg.Go(func() {
					for n := 0; time.Now().Before(deadline); n++ {
						subject := fmt.Sprintf("%d-%d", i, n)
						_, err := client.Send(t.Context(), envelope(subject+"@example.net"), message(subject, strings.Repeat("x", rand.IntN(5000))))
						mu.Lock()
						outcomes[subject] = err
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			client.Close()
			arrived := map[string]int{}
			for _, m := range srv.Messages() {
				subject, _, _ := strings.Cut(m.To[0], "@")
				arrived[subject]++
				if !bytes.Contains(m.Data, []byte("\r\n\r\n"+subject+"\r\n")) {
					t.Errorf("message %s has another's body", subject)
				}
			}
			accepted, doubtful := 0, 0
			for subject, err := range outcomes {
				var e *smtpx.Error
				n := arrived[subject]
				switch {
				case err == nil && n == 1:
					accepted++
				case errors.As(err, &e) && e.Class == smtpx.ClassAmbiguous && n <= 1:
					doubtful++
				case err != nil && n == 0:
				default:
					t.Errorf("message %s arrived %d times, reported as %v", subject, n, err)
				}
			}
			t.Logf("%d messages: %d accepted, %d in doubt, %d sessions", len(outcomes), accepted, doubtful, srv.Stats().Sessions)
			if accepted == 0 || peak.Load() > 4 || open.Load() != 0 {
				t.Errorf("%d accepted, %d connections at a time, %d open at the end", accepted, peak.Load(), open.Load())
			}
		})
	}
}
