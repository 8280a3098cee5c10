package dispatcher_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/smtpx"
)

// A dispatcher that is idle and woken claims first where the last message came from; what is urgent and waits elsewhere is sent
// a moment later, also when it is woken without end.
func TestWhatIsExpected(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		var (
			mu   sync.Mutex
			sent = make(map[outbox.Priority]time.Time)
		)
		s := &sender{}
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			return s.accept(ctx, env, body)
		}
		d := running(t, dispatcher.Config{
			Queue: q, Poll: time.Hour, Relays: []dispatcher.Relay{{Name: "main", Sender: s}},
			Observer: dispatcher.Observer{SendStart: func(_ context.Context, e dispatcher.SendEvent) {
				mu.Lock()
				defer mu.Unlock()
				sent[e.Message.Priority] = time.Now()
			}},
		})
		enqueue := func(p outbox.Priority) time.Time {
			q.add(1, func(_ int, c *outbox.Claimed) { c.Priority = p })
			d.Wake()
			return time.Now()
		}
		latency := func(p outbox.Priority, since time.Time) time.Duration {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return sent[p].Sub(since)
		}
		lastAsked := func() outbox.Due {
			q.mu.Lock()
			defer q.mu.Unlock()
			return q.asked[len(q.asked)-1].Expect
		}
		time.Sleep(time.Second)
		if took := latency(outbox.Normal, enqueue(outbox.Normal)); took != 0 || lastAsked() != (outbox.Due{}) {
			t.Errorf("the first message took %v, expected at %+v", took, lastAsked())
		}
		time.Sleep(time.Second)
		if took := latency(outbox.Normal, enqueue(outbox.Normal)); took != 0 || lastAsked() != (outbox.Due{Route: "default", Priority: outbox.Normal}) {
			t.Errorf("the second message took %v, expected at %+v", took, lastAsked())
		}
		time.Sleep(time.Second)
		began := enqueue(outbox.High)
		enqueue(outbox.Normal) // it is claimed at once, and the other behind it
		time.Sleep(time.Second)
		if took := latency(outbox.High, began); took > 10*time.Millisecond {
			t.Errorf("the urgent message took %v", took)
		}
		for range 100 {
			enqueue(outbox.Normal)
			time.Sleep(time.Millisecond)
		}
		began = enqueue(outbox.High)
		for range 100 {
			enqueue(outbox.Normal)
			time.Sleep(time.Millisecond)
		}
		if took := latency(outbox.High, began); took > 2*time.Millisecond {
			t.Errorf("beside much else the urgent message took %v", took)
		}
	})
}
