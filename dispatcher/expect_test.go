package dispatcher_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/queue"
)

// An idle dispatcher that is woken claims first where its last message came from. Urgent messages elsewhere go a moment later,
// even if it is woken without end.
func TestWhatIsExpected(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		var (
			mu   sync.Mutex
			sent = make(map[outbox.Priority]time.Time)
		)
		d := running(t, dispatcher.Config{
			Queue: q, Poll: time.Hour, Relays: []dispatcher.Relay{{Name: "main", Sender: &sender{}}},
			Observer: dispatcher.Observer{SendStart: func(_ context.Context, e dispatcher.SendEvent) {
				mu.Lock()
				defer mu.Unlock()
				sent[e.Message.Priority] = time.Now()
			}},
		})
		enqueue := func(list ...outbox.Priority) time.Time { // in one transaction
			q.add(len(list), func(i int, c *queue.Claimed) { c.Priority = list[i] })
			d.Wake()
			return time.Now()
		}
		latency := func(p outbox.Priority, since time.Time) time.Duration { // negative: none was sent since then
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return sent[p].Sub(since)
		}
		lastAsked := func() queue.Due {
			q.mu.Lock()
			defer q.mu.Unlock()
			return q.asked[len(q.asked)-1].Expect
		}
		time.Sleep(time.Second)
		if took := latency(outbox.Normal, enqueue(outbox.Normal)); took != 0 || lastAsked() != (queue.Due{}) {
			t.Errorf("the first message took %v, expected at %+v", took, lastAsked())
		}
		time.Sleep(time.Second)
		if took := latency(outbox.Normal, enqueue(outbox.Normal)); took != 0 || lastAsked() != (queue.Due{Route: "default", Priority: outbox.Normal}) {
			t.Errorf("the second message took %v, expected at %+v", took, lastAsked())
		}
		time.Sleep(time.Second)
		began := enqueue(outbox.High, outbox.Normal)
		time.Sleep(time.Second)
		normal, high := latency(outbox.Normal, began), latency(outbox.High, began)
		if normal != 0 || high <= 0 || high > 10*time.Millisecond {
			t.Errorf("what was expected took %v, what is urgent and was not %v", normal, high)
		}
		enqueue(outbox.Normal) // what is expected next is normal again
		for range 100 {
			time.Sleep(time.Millisecond)
			enqueue(outbox.Normal)
		}
		time.Sleep(time.Millisecond)
		began = enqueue(outbox.High, outbox.Normal)
		for range 100 {
			time.Sleep(time.Millisecond)
			enqueue(outbox.Normal)
		}
		if took := latency(outbox.High, began); took < 0 || took > 2*time.Millisecond {
			t.Errorf("beside much else the urgent message took %v", took)
		}
	})
}
