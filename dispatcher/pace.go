package dispatcher

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// adaptEvery is the shortest time between two steps of the pace. The many answers to one burst so count once.
	adaptEvery = time.Second
	// recovery is the number of steps back to full speed.
	recovery = 30
	// slowest is the lowest pace, in messages a second.
	slowest = 0.05
	// paceMemory is the time over which the pace is measured.
	paceMemory = 5 * time.Second
)

// pace slows a lane down while its relay throttles. Each step halves the messages at once and the messages a second. Recovery goes
// in small equal steps. After an outage the lane begins with one message at once and doubles with each success. Without
// throttling pace bounds only the concurrency.
type pace struct {
	mu        sync.Mutex
	full      int           // configured concurrency
	at        float64       // messages at once
	slowStart bool          // concurrency doubles after an outage
	limit     *rate.Limiter // of begun messages; rate.Inf without throttling
	ceiling   float64       // messages a second from which on the limit is dropped
	changed   time.Time     // last step in either direction
	measured  float64       // messages a second that were accepted lately
	counted   int
	from      time.Time
}

func newPace(full int, now time.Time) *pace {
	return &pace{full: full, at: float64(full), limit: rate.NewLimiter(rate.Inf, 1), from: now}
}

// concurrency returns how many messages may be sent at once.
func (p *pace) concurrency() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(1, int(p.at))
}

// perSecond returns how many messages may begin in a second, +Inf for any number.
func (p *pace) perSecond() float64 {
	if l := float64(p.limit.Limit()); l < math.MaxFloat64 {
		return l
	}
	return math.Inf(1)
}

// resize sets the configured concurrency.
func (p *pace) resize(full int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at >= float64(p.full) || p.at > float64(full) {
		p.at = float64(full)
	}
	p.full = full
}

// accepted notes an accepted message and speeds the lane up.
func (p *pace) accepted(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counted++
	if span := now.Sub(p.from); span >= paceMemory {
		p.measured = float64(p.counted) / span.Seconds()
		p.counted, p.from = 0, now
	}
	if p.slowStart {
		if p.at = math.Min(float64(p.full), p.at*2); p.at >= float64(p.full) {
			p.slowStart = false
		}
		return
	}
	if now.Sub(p.changed) < adaptEvery {
		return
	}
	p.changed = now
	p.at = math.Min(float64(p.full), p.at+math.Max(1, float64(p.full)/recovery))
	if p.limit.Limit() == rate.Inf {
		return
	}
	next := float64(p.limit.Limit()) + math.Max(slowest, p.ceiling/recovery)
	if next >= p.ceiling {
		p.limit.SetLimitAt(now, rate.Inf)
		return
	}
	p.limit.SetLimitAt(now, rate.Limit(next))
}

// throttled halves concurrency and rate.
func (p *pace) throttled(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.changed) < adaptEvery && !p.changed.IsZero() {
		return
	}
	p.changed, p.slowStart = now, false
	p.at = math.Max(1, p.at/2)
	current := float64(p.limit.Limit())
	if p.limit.Limit() == rate.Inf {
		current = p.measured
		if span := now.Sub(p.from).Seconds(); span > 0 {
			current = math.Max(current, float64(p.counted)/math.Max(span, 1))
		}
		current = math.Max(current, 1)
		p.ceiling = 2 * current
	}
	p.limit.SetLimitAt(now, rate.Limit(math.Max(slowest, current/2)))
}

// startSlowly begins with one message at once and doubles with each success.
func (p *pace) startSlowly() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.slowStart = 1, true
}

// wait blocks until a message may begin, or until stop is closed.
func (p *pace) wait(stop <-chan struct{}) {
	if p.limit.Limit() == rate.Inf {
		return
	}
	d := p.limit.Reserve().Delay()
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-stop:
	}
}
