package dispatcher_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/smtpx"
)

// Relays come, go and change while messages are sent. Each message is sent once.
func TestUpdateLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		const n = 600
		var used atomic.Int64 // sends of a sender after Update took it out
		type tracked struct {
			*line
			out *atomic.Bool
		}
		senders := make([]tracked, 4)
		progress := make(chan struct{}, n)
		list := func(from int) []dispatcher.Relay {
			var list []dispatcher.Relay
			for i := from; i < from+2; i++ {
				s := senders[i%len(senders)]
				list = append(list, dispatcher.Relay{Name: fmt.Sprintf("relay-%d", i%3), Sender: s.line, Weight: 1 + from%3, Concurrency: 2 + from%5})
			}
			return list
		}
		for i := range senders {
			out := new(atomic.Bool)
			senders[i] = tracked{&line{takes: time.Millisecond}, out}
			senders[i].answer = func() *smtpx.Error {
				if out.Load() {
					used.Add(1)
				}
				progress <- struct{}{}
				return nil
			}
		}
		sum := func() int {
			total := 0
			for _, s := range senders {
				total += s.accepted()
			}
			return total
		}
		q.enqueue(n, nil)
		d := newDispatcher(t, dispatcher.Config{Queue: q, Relays: list(0), Poll: 20 * time.Millisecond}, nil)
		stop := start(t, d)
		const step = 20 // messages from one change to the next
		for turn := 1; turn*step <= n; turn++ {
			for range step {
				<-progress
			}
			next := list(turn)
			for i := range senders {
				if in := next[0].Sender == senders[i].line || next[1].Sender == senders[i].line; in {
					senders[i].out.Store(false)
				}
			}
			if err := d.Update(next); err != nil {
				t.Fatal(err)
			}
			for i := range senders {
				if in := next[0].Sender == senders[i].line || next[1].Sender == senders[i].line; !in {
					senders[i].out.Store(true) // Update has returned: it must not be used any more
				}
			}
		}
		stop()
		if got := sum(); got != n {
			t.Errorf("%d copies of %d messages", got, n)
		}
		if used.Load() != 0 {
			t.Errorf("senders were used %d times after they were taken out", used.Load())
		}
		counts, err := q.Count(context.WithoutCancel(t.Context()), storeFilter(outbox.StateSent))
		if err != nil || counts != n {
			t.Errorf("%d of %d are recorded as sent; error %v", counts, n, err)
		}
	})
}

// A list that is not valid changes nothing.
func TestUpdateRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	d := newDispatcher(t, dispatcher.Config{Queue: newShelf()}, &sender{})
	for name, list := range map[string][]dispatcher.Relay{
		"none":   nil,
		"twice":  {{Name: "a", Sender: &sender{}}, {Name: "a", Sender: &sender{}}},
		"weight": {{Name: "a", Sender: &sender{}, Weight: -1}},
		"fence":  {{Name: "a", Sender: &sender{}, Fence: "some"}},
	} {
		if err := d.Update(list); err == nil || !strings.Contains(err.Error(), "update") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// Messages that have not begun on a removed relay go through the others at once. Those that are being sent are finished there.
func TestUpdateFinishesWhatIsBeingSent(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		a, b := &line{takes: 10 * time.Second}, &line{}
		d := running(t, dispatcher.Config{Queue: q, Relays: relays(a), Concurrency: 2})
		q.add(8, nil)
		time.Sleep(5 * time.Second)
		began := time.Now()
		if err := d.Update([]dispatcher.Relay{{Name: "b", Sender: b}}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("Update took %v until the first relay was not used any more", took)
		}
		synctest.Wait()
		if a.accepted() != 2 || b.accepted() != 6 {
			t.Errorf("the first relay sent %d, the second %d, of 8", a.accepted(), b.accepted())
		}
		slow := &line{takes: time.Hour} // it hangs: Grace ends it
		if err := d.Update(relays(slow)); err != nil {
			t.Fatal(err)
		}
		q.add(1, nil)
		time.Sleep(10 * time.Second)
		began = time.Now()
		if err := d.Update([]dispatcher.Relay{{Name: "b", Sender: b}}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("Update waited %v for a relay that hangs", took)
		}
		time.Sleep(time.Minute)
		if q.count(outbox.StateSent) != 9 {
			t.Errorf("%d of 9 were sent", q.count(outbox.StateSent))
		}
	})
}
