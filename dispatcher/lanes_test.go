package dispatcher_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// refused is a relay that cannot be connected to.
var refused = lost(smtpx.StageDial, smtpx.ClassUnreachable)

// Relays share the messages of a route by their weights, both when much is due at once and when it comes little by little.
func TestWeights(t *testing.T) {
	t.Parallel()
	for _, light := range []bool{false, true} {
		t.Run(fmt.Sprintf("light=%v", light), func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				a, b := &line{takes: 20 * time.Millisecond}, &line{takes: 20 * time.Millisecond}
				list := relays(a, b)
				list[0].Weight = 3
				d := running(t, dispatcher.Config{Queue: q, Relays: list})
				const n = 400
				if light {
					for range n {
						q.add(1, nil)
						d.Wake()
						time.Sleep(100 * time.Millisecond)
					}
				} else {
					q.add(n, nil)
					d.Wake()
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := a.accepted(); got+b.accepted() != n || got < n*3/4-30 || got > n*3/4+30 {
					t.Errorf("the relay of weight 3 sent %d and the one of weight 1 %d, of %d", got, b.accepted(), n)
				}
			})
		})
	}
}

// However different the weights are, every relay has its turn and no message waits for ever.
func TestWeightsFarApart(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		a, b, c := &line{takes: 20 * time.Millisecond}, &line{takes: 20 * time.Millisecond}, &line{takes: 20 * time.Millisecond}
		list := relays(a, b, c)
		list[0].Weight, list[1].Weight, list[2].Weight = 1000, 1, 30
		list[1].Concurrency, list[2].Concurrency = 1, 2
		running(t, dispatcher.Config{Queue: q, Relays: list})
		q.add(3000, nil)
		time.Sleep(time.Minute)
		if n := a.accepted() + b.accepted() + c.accepted(); n != 3000 || b.accepted() == 0 || b.accepted() > 30 || c.accepted() < 50 {
			t.Errorf("of 3000 messages %d, %d and %d were sent", a.accepted(), b.accepted(), c.accepted())
		}
	})
}

// A relay that hangs does not keep the others from sending beyond their share.
func TestAStuckRelayIsNotWaitedFor(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		a, b := &line{takes: 10 * time.Minute}, &line{takes: 20 * time.Millisecond}
		list := relays(a, b)
		list[0].Weight = 9
		running(t, dispatcher.Config{Queue: q, Relays: list})
		q.add(1000, nil)
		time.Sleep(time.Minute)
		if got := b.accepted(); got < 900 {
			t.Errorf("%d messages went beside a relay that hangs, of 1000", got)
		}
	})
}

// A relay that cannot be reached is left alone after a few failures, probed at growing intervals, and loaded slowly once it is
// back.
func TestAnOutageOpensTheBreaker(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		up := false
		a := &line{answer: always(refused), takes: 10 * time.Millisecond}
		a.probe = func() error {
			if !up {
				return refused
			}
			return nil
		}
		var events []dispatcher.RelayEvent
		var mu sync.Mutex
		d := running(t, dispatcher.Config{
			Queue: q, Relays: relays(prober{a}), Concurrency: 4,
			Observer: dispatcher.Observer{Relay: func(_ context.Context, e dispatcher.RelayEvent) {
				mu.Lock()
				defer mu.Unlock()
				events = append(events, e)
			}},
		})
		q.add(100, nil)
		time.Sleep(4 * time.Second)
		if n := a.tried(); n < 5 || n > 12 {
			t.Errorf("%d messages were tried on a relay that is down", n)
		}
		h := d.Health()
		if h.Ready || !h.Live || h.Relays[0].State != dispatcher.RelayOffline || h.Relays[0].Reason != "connection lost" {
			t.Errorf("health %+v", h)
		}
		tried := a.tried()
		time.Sleep(10 * time.Minute)
		if n := a.tried(); n != tried {
			t.Errorf("%d messages were tried while probes failed", n-tried)
		}
		a.mu.Lock()
		up = true
		probes := slices.Clone(a.probes)
		a.mu.Unlock()
		if len(probes) < 5 || len(probes) > 9 {
			t.Errorf("%d probes in ten minutes", len(probes))
		}
		for i := 2; i < len(probes); i++ {
			if before, after := probes[i-1].Sub(probes[i-2]), probes[i].Sub(probes[i-1]); after < before*3/2 && after < 5*time.Minute {
				t.Errorf("probe %d came %v after the one before, which came after %v", i, after, before)
			}
		}
		a.set(nil)
		time.Sleep(time.Hour)
		if q.count(outbox.StateSent) != 100 {
			t.Errorf("%d of 100 were sent after the relay came back", q.count(outbox.StateSent))
		}
		for id := range 100 { // nobody was held against it
			if r := q.get(outbox.ID(fmt.Sprintf("%08d", id+1))); r.attempt != 1 {
				t.Errorf("message %s counts %d attempts", r.id, r.attempt)
			}
		}
		if h := d.Health(); !h.Ready || h.Relays[0].State != dispatcher.RelayHealthy || len(h.Reasons) != 0 {
			t.Errorf("health at the end: %+v", h)
		}
		mu.Lock()
		defer mu.Unlock()
		var states []dispatcher.RelayState
		for _, e := range events {
			states = append(states, e.State)
		}
		states = slices.Compact(states)
		want := []dispatcher.RelayState{dispatcher.RelayOffline, dispatcher.RelayTrial}
		if i := slices.Index(states, dispatcher.RelayOffline); i < 0 || !slices.Equal(states[i:i+2], want) || states[len(states)-1] != dispatcher.RelayHealthy {
			t.Errorf("states %v", states)
		}
	})
}

// The first message that meets a wrong password takes the relay offline, with one event in the provider's words. No message
// fails.
func TestAFaultOfTheConfigurationStopsTheRelay(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		a := &line{takes: 10 * time.Millisecond, answer: always(reply(smtpx.StageAuth, smtpx.ClassConfig, 535, "5.7.8 bad credentials"))}
		var stops atomic.Int32
		running(t, dispatcher.Config{
			Queue: q, Relays: relays(a), Concurrency: 1, Poll: time.Minute,
			Observer: dispatcher.Observer{Relay: func(_ context.Context, e dispatcher.RelayEvent) {
				if e.State == dispatcher.RelayOffline {
					stops.Add(1)
					if e.Class != smtpx.ClassConfig || e.Reason != "5.7.8 bad credentials" {
						t.Errorf("event %+v", e)
					}
				}
			}},
		})
		q.add(50, nil)
		time.Sleep(20 * time.Second)
		if a.tried() != 1 || stops.Load() != 1 {
			t.Errorf("%d messages were tried and %d events raised", a.tried(), stops.Load())
		}
		time.Sleep(6 * 24 * time.Hour) // longer than any budget
		if q.count(outbox.StateQueued) != 50 {
			t.Errorf("%d of 50 are kept", q.count(outbox.StateQueued))
		}
		a.set(nil)
		time.Sleep(time.Hour)
		if q.count(outbox.StateSent) != 50 {
			t.Errorf("%d of 50 were sent once the password was right", q.count(outbox.StateSent))
		}
	})
}

// Faults of messages, of recipients or of one sender never take a relay offline.
func TestRejectionsDoNotOpenTheBreaker(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]*smtpx.Error{
		"message":   reply(smtpx.StageDot, smtpx.ClassMessage, 554, "spam"),
		"recipient": reply(smtpx.StageRcpt, smtpx.ClassRecipient, 550, "no such user"),
		"greylist":  reply(smtpx.StageRcpt, smtpx.ClassTransient, 450, "try later"),
		"sender":    reply(smtpx.StageMail, smtpx.ClassConfig, 550, "not your address"),
	} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				a := &line{answer: always(e)}
				d := running(t, dispatcher.Config{Queue: q, Relays: relays(a)})
				q.add(100, nil)
				time.Sleep(5 * time.Second)
				if a.tried() != 100 {
					t.Errorf("%d of 100 were tried", a.tried())
				}
				if s := d.Health().Relays[0].State; s != dispatcher.RelayHealthy && s != dispatcher.RelayDegraded {
					t.Errorf("the relay is %s", s)
				}
			})
		})
	}
}

// A message that one relay certainly did not accept goes through another at once. A message in doubt never does.
func TestFailover(t *testing.T) {
	t.Parallel()
	quota := reply(smtpx.StageMail, smtpx.ClassQuota, 550, "daily limit exceeded")
	throttle := reply(smtpx.StageMail, smtpx.ClassThrottled, 454, "too fast")
	doubt := lost(smtpx.StageDot, smtpx.ClassAmbiguous)
	for _, c := range []struct {
		name   string
		answer *smtpx.Error
		over   bool
	}{{"unreachable", refused, true}, {"quota", quota, true}, {"throttled", throttle, false}, {"in doubt", doubt, false}} {
		t.Run(c.name, func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				a, b := &line{answer: always(c.answer)}, &line{}
				running(t, dispatcher.Config{Queue: q, Relays: relays(a, b)})
				ids := q.add(20, nil)
				time.Sleep(3 * time.Second)
				if a.tried() == 0 {
					t.Fatal("the first relay was never tried")
				}
				for _, id := range ids {
					r := q.get(id)
					met := slices.ContainsFunc(r.history, func(s queue.Settlement) bool { return s.Evidence.Relay == "a" })
					switch {
					case c.over && r.state != outbox.StateSent:
						t.Errorf("%s is %s", id, r.state)
					case !c.over && met && r.state == outbox.StateSent:
						t.Errorf("%s went through the other relay", id)
					}
				}
				if c.over && b.accepted() != 20 {
					t.Errorf("the other relay sent %d of 20", b.accepted())
				}
			})
		})
	}
}

// A backup sends only while no other relay of the route can.
func TestBackup(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		a, b := &line{}, &line{}
		list := relays(a, b)
		list[1].Backup = true
		running(t, dispatcher.Config{Queue: q, Relays: list})
		send := func(n int) {
			q.add(n, nil)
			time.Sleep(20 * time.Second)
		}
		if send(50); b.accepted() != 0 || a.accepted() != 50 {
			t.Errorf("the backup sent %d while the relay could", b.accepted())
		}
		a.set(always(refused))
		if send(50); b.accepted() != 50 {
			t.Errorf("the backup sent %d of 50 while the relay could not", b.accepted())
		}
		a.set(nil)
		send(1) // whichever finds out that it is back
		time.Sleep(10 * time.Minute)
		before := b.accepted()
		if send(50); b.accepted() != before {
			t.Errorf("the backup sent %d after the relay was back", b.accepted()-before)
		}
	})
}

// A used-up allowance pauses the relay until the provider's reset. The messages stay.
func TestQuotaPausesTheRelay(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		e := reply(smtpx.StageMail, smtpx.ClassQuota, 550, "daily limit exceeded, try again in 3 hours")
		e.RetryAfter = 3 * time.Hour
		a := &line{answer: always(e), takes: time.Millisecond}
		d := running(t, dispatcher.Config{Queue: q, Relays: relays(a), Concurrency: 1})
		q.add(10, nil)
		time.Sleep(2*time.Hour + 50*time.Minute)
		if n := a.tried(); n != 1 {
			t.Errorf("%d messages were tried although the allowance was used up", n)
		}
		if r := d.Health().Relays[0]; r.State != dispatcher.RelayPaused || r.For > 10*time.Minute+time.Second {
			t.Errorf("the relay is %+v", r)
		}
		a.set(nil)
		time.Sleep(time.Hour)
		if n := q.count(outbox.StateSent); n != 10 {
			t.Errorf("%d of 10 were sent after the reset", n)
		}
	})
}

// Throttling halves the messages at once and the messages a second. Both come back step by step.
func TestThrottlingSlowsDown(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		a := &line{takes: 500 * time.Millisecond}
		d := running(t, dispatcher.Config{Queue: q, Relays: relays(a), Concurrency: 16, Poll: 100 * time.Millisecond})
		q.add(5_000, nil)
		time.Sleep(10 * time.Second)
		fast := a.accepted()
		a.set(always(reply(smtpx.StageMail, smtpx.ClassThrottled, 454, "too fast")))
		time.Sleep(3500 * time.Millisecond)
		slow := d.Health().Relays[0]
		if slow.Concurrency > 4 || slow.PerSecond > float64(fast)/10/4 || slow.State != dispatcher.RelayDegraded {
			t.Errorf("after throttling the relay is %+v; it was sent %d in 10 s before", slow, fast)
		}
		a.set(nil)
		before := a.accepted()
		time.Sleep(2 * time.Second)
		if n := a.accepted() - before; n == 0 || n > fast/10 {
			t.Errorf("%d messages in the two seconds after throttling ended, %d in ten seconds before it", n, fast)
		}
		time.Sleep(2 * time.Minute)
		if h := d.Health().Relays[0]; h.Concurrency != 16 || h.State != dispatcher.RelayHealthy {
			t.Errorf("two minutes later the relay is %+v", h)
		}
	})
}

// Urgent messages overtake those that wait in the lane. No domain gets more at once than it may.
func TestOrderInTheLane(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		var mu sync.Mutex
		var order []string
		active, most := map[string]int{}, map[string]int{}
		s := &sender{}
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			domain := env.To[0][len("ada@"):]
			mu.Lock()
			order = append(order, string(body[len(body)-4:]))
			active[domain]++
			most[domain] = max(most[domain], active[domain])
			mu.Unlock()
			time.Sleep(10 * time.Millisecond)
			mu.Lock()
			active[domain]--
			mu.Unlock()
			return s.accept(ctx, env, body)
		}
		list := relays(s)
		list[0].Concurrency, list[0].PerDomain = 8, 2
		q.add(64, func(i int, c *queue.Claimed) {
			c.Priority, c.Body = outbox.Bulk, []byte("bulk")
			if i%2 == 0 {
				c.Deliveries[0].Recipient = "ada@example.net"
			}
		})
		d := running(t, dispatcher.Config{Queue: q, Relays: list})
		time.Sleep(15 * time.Millisecond)
		q.add(1, func(_ int, c *queue.Claimed) {
			c.Priority, c.Body, c.Deliveries[0].Recipient = outbox.High, []byte("high"), "ada@example.edu"
		})
		d.Wake()
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if i := slices.Index(order, "high"); i < 0 || i > 40 {
			t.Errorf("the urgent message was number %d of %d", i, len(order))
		}
		if most["example.net"] != 2 || most["example.org"] != 2 {
			t.Errorf("at once went %v", most)
		}
		if n := q.count(outbox.StateSent); n != 65 {
			t.Errorf("%d of 65 were sent", n)
		}
	})
}
