package dispatcher

import (
	"math"
	"sync"
	"time"

	"github.com/outboxmail/outbox/smtpx"
)

const (
	// prefetch is the largest number of messages that wait in a lane for each one that it sends at once.
	prefetch = 7
	// ahead is the amount of work that a lane holds beyond what it is sending, as the time until the work begins. It is short, so that
	// an urgent message that comes later waits little.
	ahead = 250 * time.Millisecond
)

// gate decides how many messages one relay may be sent now. It joins three things under one mutex: whether the relay may be used
// ([breaker]), how fast ([pace]), and how many messages are being sent. It starts nothing and waits for nothing; every method takes
// the present time.
type gate struct {
	mu      sync.Mutex
	breaker breaker
	pace    pace
	active  int           // messages that are being sent
	took    time.Duration // moving average of the duration of a send
	moved   time.Time     // when a message last began or ended
}

func newGate(concurrency int, now time.Time) *gate {
	return &gate{breaker: newBreaker(now), pace: newPace(concurrency, now), moved: now}
}

// grant returns how many messages may begin now. again is the time at which to ask anew even if nothing else happens; zero means that
// only another event changes the answer. While the relay is out of use, again is the end of the wait, after which [gate.due] is true.
func (g *gate) grant(now time.Time) (begin int, again time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	slots := g.concurrency() - g.active
	if slots <= 0 {
		if g.breaker.wait(now) > 0 {
			again = g.breaker.until
		}
		return 0, again
	}
	opens := g.pace.opens()
	if opens.After(now) {
		return 0, opens
	}
	if !g.pace.limited() {
		return slots, time.Time{}
	}
	return 1, now.Add(interval(g.pace.limit))
}

// begin counts a message that begins.
func (g *gate) begin(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.active++
	g.moved = now
	g.pace.begun(now)
}

// end counts a message that has ended. took is how long the send took, 0 if nothing was sent.
func (g *gate) end(now time.Time, took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.active--
	g.moved = now
	switch {
	case took <= 0:
	case g.took > 0:
		g.took += (took - g.took) / 8
	default:
		g.took = took
	}
}

// note applies a verdict to breaker and pace. changed says whether the state of the relay changed. faster says whether more messages
// may be sent at once than before.
func (g *gate) note(now time.Time, v verdict) (changed, faster bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.concurrency()
	switch v.class {
	case "":
		g.pace.accepted(now)
	case smtpx.ClassThrottled:
		g.pace.throttled(now, v.reset)
	default:
	}
	changed = g.breaker.note(now, v)
	return changed, g.concurrency() > before
}

// concurrency returns how many messages the relay may be sent at once. The caller holds the mutex.
func (g *gate) concurrency() int {
	switch g.breaker.state {
	case RelayOffline, RelayPaused:
		return 0
	case RelayTrial:
		return 1
	default:
		return g.pace.concurrency()
	}
}

// able says whether the relay may get messages.
func (g *gate) able() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.concurrency() > 0
}

// capacity is what a gate lets through.
type capacity struct {
	active int // messages being sent
	ready  int // messages that can probably begin within ahead
	// room is the largest number of messages that are worth holding. It is active and ready together, or more.
	room int
	// reach is how many messages could begin within ahead if all slots were free. It tells how fast the relay is.
	reach float64
	// opens is when ready grows without any event; zero if it does not.
	opens time.Time
}

// room returns the present capacity. A relay that is full and has ended nothing for a while is expected to go on so.
func (g *gate) room(now time.Time) capacity {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.concurrency()
	c := capacity{active: g.active}
	if n == 0 {
		return c
	}
	free := max(0, n-g.active)
	if g.breaker.state == RelayTrial {
		c.ready, c.room, c.reach = free, n, 1
		return c
	}
	wait := prefetch * n // what waits for the slots that are taken
	c.reach = float64(n)
	took := g.took
	if free == 0 {
		took = max(took, now.Sub(g.moved))
	}
	if took > 0 {
		c.reach = float64(n) * float64(ahead) / float64(took)
		wait = min(wait, int(c.reach))
	}
	c.ready = g.pace.within(now, ahead, free+wait)
	c.room = g.active + c.ready
	if g.pace.limited() {
		c.reach = math.Min(c.reach, g.pace.limit*ahead.Seconds())
	}
	if opens := g.pace.opens().Add(-ahead); c.ready < free+wait && opens.After(now) {
		c.opens = opens
	}
	return c
}

// resize sets the configured concurrency.
func (g *gate) resize(concurrency int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pace.resize(concurrency)
}

// due says whether the wait of a relay that is out of use is over. probe says that it should be probed first.
func (g *gate) due(now time.Time) (due, probe bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.breaker.lookAgain(now), g.breaker.state == RelayOffline
}

// try begins a trial: one message at a time, until one gets through. After that the concurrency doubles with each success. It returns
// false if the wait was prolonged meanwhile.
func (g *gate) try(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.breaker.lookAgain(now) {
		return false
	}
	g.breaker.try(now)
	g.breaker.show(now)
	g.pace.startSlowly()
	return true
}

// reopen begins the next wait after a failed probe, and returns it.
func (g *gate) reopen(now time.Time, v verdict) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.breaker.reopen(now, v)
	return g.breaker.wait(now)
}

// pause takes the relay out of use for the time d, as another dispatcher or an operator says. It does nothing if the relay is out of
// use for as long anyhow. changed says whether the relay was in use.
func (g *gate) pause(now time.Time, d time.Duration, reason string) (changed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d <= g.breaker.wait(now)+time.Second {
		return false
	}
	changed = g.concurrency() > 0
	g.breaker.pause(now, d, reason)
	return changed
}

// lift ends a pause that all dispatchers share. It returns false if there is none.
func (g *gate) lift(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.breaker.lift(now)
}

// unshared returns a pause of which the other dispatchers do not know, and 0 if there is none.
func (g *gate) unshared(now time.Time) (d time.Duration, reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.breaker.state != RelayPaused || g.breaker.shared {
		return 0, ""
	}
	return g.breaker.wait(now), g.breaker.why.words
}

// share notes that all dispatchers know of the pause.
func (g *gate) share() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.breaker.share()
}

// wait returns the time until the relay is tried again, 0 if it is in use.
func (g *gate) wait(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.breaker.wait(now)
}

// condition is what a gate tells people of its relay.
type condition struct {
	state       RelayState
	since       time.Time
	why         fault
	next        time.Duration // until the relay is tried again, 0 if it is in use
	active      int
	concurrency int
	perSecond   float64 // +Inf without throttling
}

// condition returns the present condition.
func (g *gate) condition(now time.Time) condition {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := condition{active: g.active, concurrency: g.concurrency(), perSecond: g.pace.limit, next: g.breaker.wait(now)}
	c.state, c.since, c.why = g.breaker.status(now)
	return c
}
