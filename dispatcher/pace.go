package dispatcher

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// adaptEvery is the shortest time between two steps of the pace in one direction. The many answers to one burst so count once.
	adaptEvery = time.Second
	// recovery is the number of steps back to full speed.
	recovery = 30
	// firstSlowDown is the part of the rate that remains after the first step down, or if nothing got through since the last one.
	// slowDown is the part that remains otherwise.
	firstSlowDown, slowDown = 0.5, 0.7
	// nearTrouble is how close to the rate at which the relay throttled the steps up become carefulSteps times as small.
	nearTrouble, carefulSteps = 0.1, 4
	// slowest is the lowest pace, in messages a second.
	slowest = 0.05
	// paceMemory is the time over which the pace is measured.
	paceMemory = 5 * time.Second
)

// pace slows a lane down while its relay throttles. A step halves the messages at once and the messages a second. It takes only a third
// of the rate if some messages got through since the last step. Recovery goes in small steps, and in smaller ones near the rate at which
// the relay throttled. Slowing down and recovering have clocks of their own, so a message that was accepted a moment ago does not hide
// the next throttling. After an outage the lane begins with one message at once and doubles with each success. Without throttling pace
// bounds only the concurrency.
type pace struct {
	mu         sync.Mutex
	full       int           // configured concurrency
	at         float64       // messages at once
	slowStart  bool          // concurrency doubles after an outage
	limit      *rate.Limiter // of begun messages; rate.Inf without throttling
	ceiling    float64       // messages a second from which on the limit is dropped
	trouble    float64       // messages a second at which the relay last throttled
	slowed     time.Time     // last step down
	raised     time.Time     // last step up
	gotThrough bool          // a message was accepted since the last step down
	until      time.Time     // nothing begins before, because the relay asked for a short wait
	measured   float64       // messages a second that were accepted lately
	counted    int
	from       time.Time
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
	p.gotThrough = true
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
	if now.Sub(p.raised) < adaptEvery || now.Sub(p.slowed) < adaptEvery {
		return
	}
	p.raised = now
	p.at = math.Min(float64(p.full), p.at+math.Max(1, float64(p.full)/recovery))
	if p.limit.Limit() == rate.Inf {
		return
	}
	current := float64(p.limit.Limit())
	step := p.ceiling / recovery
	if current > p.trouble*(1-nearTrouble) && current < p.trouble*(1+nearTrouble) {
		step /= carefulSteps
	}
	next := current + math.Max(slowest, step)
	if next >= p.ceiling {
		p.limit.SetLimitAt(now, rate.Inf)
		return
	}
	p.limit.SetLimitAt(now, rate.Limit(next))
}

// throttled slows the lane down. wait is the wait that the relay asked for, 0 for none.
func (p *pace) throttled(now time.Time, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until := now.Add(min(wait, longThrottle)); wait > 0 && until.After(p.until) {
		p.until = until
	}
	if now.Sub(p.slowed) < adaptEvery && !p.slowed.IsZero() {
		return
	}
	p.slowed, p.slowStart = now, false
	p.at = math.Max(1, p.at/2)
	current, part := float64(p.limit.Limit()), slowDown
	if p.limit.Limit() == rate.Inf {
		current = p.measured
		if span := now.Sub(p.from).Seconds(); span > 0 {
			current = math.Max(current, float64(p.counted)/math.Max(span, 1))
		}
		current, part = math.Max(current, 1), firstSlowDown
		p.ceiling = 2 * current
	} else if !p.gotThrough {
		part = firstSlowDown
	}
	p.gotThrough = false
	p.trouble = current
	p.limit.SetLimitAt(now, rate.Limit(math.Max(slowest, current*part)))
}

// startSlowly begins with one message at once and doubles with each success.
func (p *pace) startSlowly() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.slowStart = 1, true
}

// wait blocks until a message may begin, or until stop is closed.
func (p *pace) wait(stop <-chan struct{}) {
	p.mu.Lock()
	d := time.Until(p.until)
	p.mu.Unlock()
	if p.limit.Limit() != rate.Inf {
		d = max(d, p.limit.Reserve().Delay())
	}
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
