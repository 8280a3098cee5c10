package dispatcher_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// onRoute puts messages on a route.
func onRoute(route string, size int64) func(int, *queue.Claimed) {
	return func(_ int, c *queue.Claimed) { c.Route, c.Size = route, size }
}

// Large bodies that wait for a relay that hangs do not keep other relays from sending, however large they are and however many relays
// there are.
func TestLargeBodiesOfAHungRelayStarveNobody(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hung, others int
		size         int64
		within       time.Duration
	}{
		"two relays, within a share":      {1, 1, 40 << 20, 5 * time.Second},
		"three relays, above a share":     {1, 2, 40 << 20, 5 * time.Second},
		"four relays, two of which hang":  {2, 2, 40 << 20, 5 * time.Minute},
		"bodies larger than all together": {1, 1, 200 << 20, 6 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				var lines []*line
				var senders []dispatcher.Sender
				for i := range c.hung + c.others {
					l := &line{}
					if i < c.hung {
						l.takes = 100 * time.Hour
					}
					lines, senders = append(lines, l), append(senders, l)
				}
				list := relays(senders...)
				for i := range list {
					list[i].Routes = []string{list[i].Name}
				}
				running(t, dispatcher.Config{Queue: q, Relays: list})
				for i := range c.hung {
					q.add(20, onRoute(list[i].Name, c.size))
				}
				time.Sleep(5 * time.Second)
				for i := range c.others {
					q.add(10, onRoute(list[c.hung+i].Name, c.size))
				}
				time.Sleep(time.Second)
				for i := range c.others {
					q.add(100, func(_ int, m *queue.Claimed) { m.Route, m.Priority = list[c.hung+i].Name, outbox.High })
				}
				time.Sleep(5 * time.Second)
				for i := range c.others {
					if n := lines[c.hung+i].accepted(); n < 100 {
						t.Errorf("five seconds later relay %s has sent %d, 100 of its messages are small", list[c.hung+i].Name, n)
					}
				}
				time.Sleep(c.within)
				for i := range c.others {
					if n := lines[c.hung+i].accepted(); n != 110 {
						t.Errorf("relay %s has sent %d of 110 within %v", list[c.hung+i].Name, n, c.within)
					}
				}
			})
		})
	}
}

// While all relays work, their large bodies together keep to MaxBytes.
func TestMaxBytesOfSeveralRelays(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{100 << 10, 300 << 10, 900 << 10} {
		t.Run(strconv.FormatInt(size, 10), func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				var now, most atomic64
				s := &sender{}
				s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
					most.raise(now.add(int64(len(body)) / 1000 * 1000))
					time.Sleep(time.Second)
					now.add(-int64(len(body)) / 1000 * 1000)
					return s.accept(ctx, env, nil)
				}
				list := relays(s, s, s)
				q.add(90, func(i int, c *queue.Claimed) {
					c.Route, c.Size, c.Body = list[i%3].Name, size, make([]byte, size)
				})
				for i := range list {
					list[i].Routes = []string{list[i].Name}
				}
				running(t, dispatcher.Config{Queue: q, Relays: list, MaxBytes: 1 << 20})
				time.Sleep(5 * time.Minute)
				if n := q.count(outbox.StateSent); n != 90 || most.get() > 1<<20 {
					t.Errorf("%d of 90 were sent, up to %d bytes at once", n, most.get())
				}
			})
		})
	}
}

// What a relay cannot begin soon goes back when another relay can take it, whatever holds the first one up.
func TestNobodyIsHeldHostage(t *testing.T) {
	t.Parallel()
	throttled := always(reply(smtpx.StageMail, smtpx.ClassThrottled, 454, "too fast"))
	for name, a := range map[string]*line{
		"hangs":                {takes: 10 * time.Minute},
		"throttled":            {takes: time.Millisecond, answer: throttled},
		"slow":                 {takes: 20 * time.Second},
		"hangs after a while":  {takes: 10 * time.Millisecond},
		"throttles slowly too": {takes: 5 * time.Second, answer: throttled},
	} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				a.mu.Lock()
				b, takes := &line{}, a.takes
				a.mu.Unlock()
				d := running(t, dispatcher.Config{Queue: q, Relays: relays(a, b)})
				if name == "hangs after a while" {
					q.add(200, nil)
					time.Sleep(10 * time.Second)
					a.set(func() *smtpx.Error {
						time.Sleep(10 * time.Minute)
						return nil
					})
				}
				before := b.accepted()
				q.add(160, func(_ int, c *queue.Claimed) { c.Priority = outbox.High })
				d.Wake()
				time.Sleep(5 * time.Second)
				h := d.Health().Relays[0]
				if n := q.count(outbox.StateSending); n > 11 || h.Waiting > 1 {
					t.Errorf("after five seconds %d are held for a relay that takes %v (%d wait), the other sent %d and is idle",
						n, takes, h.Waiting, b.accepted()-before)
				}
			})
		})
	}
}

// A slow relay does not set the pace of another: neither of routes that it does not serve, nor of those that both serve.
func TestASlowRelaySlowsNobody(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		slow, fast []string
		takes      time.Duration
		weight     int
		atOnce     int
	}{
		"both serve x, one serves y": {[]string{"x"}, []string{"x", "y"}, time.Second, 1, 1},
		"one serves every route":     {[]string{"x"}, nil, time.Second, 1, 1},
		"both serve every route":     {nil, nil, time.Second, 1, 1},
		"the slow one is heavy":      {nil, nil, 30 * time.Second, 100, 2},
		"ten at once":                {[]string{"x", "y"}, []string{"x", "y"}, 10 * time.Second, 3, 10},
	} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				a, b := &line{takes: c.takes}, &line{takes: 10 * time.Millisecond}
				list := relays(a, b)
				list[0].Routes, list[0].Concurrency, list[0].Weight = c.slow, c.atOnce, c.weight
				list[1].Routes, list[1].Concurrency = c.fast, 10
				q.add(3000, func(i int, m *queue.Claimed) { m.Route = []string{"x", "y"}[i%2] })
				running(t, dispatcher.Config{Queue: q, Relays: list})
				time.Sleep(8 * time.Second)
				synctest.Wait()
				if b.accepted() < 2900 {
					t.Errorf("in eight seconds the slow relay sent %d and the fast one %d of 3000; alone it needs three", a.accepted(), b.accepted())
				}
				if a.tried() == 0 {
					t.Error("the slow relay got nothing")
				}
			})
		})
	}
}

// atomic64 is a number with a maximum.
type atomic64 struct {
	mu sync.Mutex
	n  int64
}

func (a *atomic64) add(n int64) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n += n
	return a.n
}

func (a *atomic64) raise(n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n = max(a.n, n)
}

func (a *atomic64) get() int64 { return a.add(0) }
