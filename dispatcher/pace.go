package dispatcher

import (
	"math"
	"time"
)

const (
	// adaptEvery is the shortest time between two steps of the pace in one direction. The many answers to one burst so count once.
	adaptEvery = time.Second
	// recovery is the number of steps back to full speed.
	recovery = 45
	// firstSlowDown is the part of the rate that remains after the first step down, or if nothing got through since the last one.
	// slowDown is the part that remains otherwise.
	firstSlowDown, slowDown = 0.5, 0.7
	// nearTrouble is how close to the rate at which the relay throttled the steps up become carefulSteps times as small.
	nearTrouble, carefulSteps = 0.1, 4
	// latest is how late a message may begin without a delay for those after it.
	latest = 5 * time.Millisecond
	// slowest is the lowest pace, in messages a second.
	slowest = 0.05
	// paceMemory is the time over which the pace is measured.
	paceMemory = 5 * time.Second
)

// pace slows a lane down while its relay throttles. A step halves the messages at once and the messages a second. It takes only a third
// of the rate if some messages got through since the last step. Recovery goes in small steps, and in smaller ones near the rate at which
// the relay throttled. Slowing down and recovering have clocks of their own, so a message that was accepted a moment ago does not hide
// the next throttling. After an outage the lane begins with one message at once and doubles with each success. Without throttling pace
// bounds only the concurrency. The gate's mutex guards it.
type pace struct {
	full       int       // configured concurrency
	at         float64   // messages at once
	slowStart  bool      // concurrency doubles after an outage
	limit      float64   // messages a second that may begin, +Inf without throttling
	next       time.Time // when the next message may begin under limit
	ceiling    float64   // messages a second from which on the limit is dropped
	trouble    float64   // messages a second at which the relay last throttled
	slowed     time.Time // last step down
	raised     time.Time // last step up
	gotThrough bool      // a message was accepted since the last step down
	until      time.Time // nothing begins before, because the relay asked for a short wait
	measured   float64   // messages a second that were accepted lately
	counted    int
	from       time.Time
}

func newPace(full int, now time.Time) pace {
	return pace{full: full, at: float64(full), limit: math.Inf(1), from: now}
}

// concurrency returns how many messages may be sent at once.
func (p *pace) concurrency() int { return max(1, int(p.at)) }

// limited says whether the messages a second are bounded.
func (p *pace) limited() bool { return !math.IsInf(p.limit, 1) }

// resize sets the configured concurrency.
func (p *pace) resize(full int) {
	if p.at >= float64(p.full) || p.at > float64(full) {
		p.at = float64(full)
	}
	p.full = full
}

// accepted notes an accepted message and speeds the lane up.
func (p *pace) accepted(now time.Time) {
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
	if !p.limited() {
		return
	}
	current := p.limit
	step := p.ceiling / recovery
	if current > p.trouble*(1-nearTrouble) && current < p.trouble*(1+nearTrouble) {
		step /= carefulSteps
	}
	next := current + math.Max(slowest, step)
	if next >= p.ceiling {
		next = math.Inf(1)
	}
	p.setLimit(next)
}

// throttled slows the lane down. wait is the wait that the relay asked for, 0 for none.
func (p *pace) throttled(now time.Time, wait time.Duration) {
	if until := now.Add(min(wait, longThrottle)); wait > 0 && until.After(p.until) {
		p.until = until
	}
	if now.Sub(p.slowed) < adaptEvery && !p.slowed.IsZero() {
		return
	}
	p.slowed, p.slowStart = now, false
	p.at = math.Max(1, p.at/2)
	current, part := p.limit, slowDown
	if !p.limited() {
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
	if !p.limited() { // the message that was throttled has just begun
		p.next = now
	}
	p.setLimit(math.Max(slowest, current*part))
}

// startSlowly begins with one message at once and doubles with each success.
func (p *pace) startSlowly() {
	p.at, p.slowStart = 1, true
}

// setLimit changes the messages a second. The wait for the next message changes alike.
func (p *pace) setLimit(limit float64) {
	if p.limited() && !math.IsInf(limit, 1) {
		p.next = p.next.Add(interval(limit) - interval(p.limit))
	}
	p.limit = limit
}

// interval returns the time between two messages.
func interval(perSecond float64) time.Duration {
	return time.Duration(float64(time.Second) / perSecond)
}

// begun notes that a message begins. One that begins a little late does not delay those after it.
func (p *pace) begun(now time.Time) {
	if !p.limited() {
		return
	}
	step := interval(p.limit)
	if earliest := now.Add(-min(step, latest)); p.next.Before(earliest) {
		p.next = earliest
	}
	p.next = p.next.Add(step)
}

// opens returns the time from which on the next message may begin.
func (p *pace) opens() time.Time {
	if p.limited() && p.next.After(p.until) {
		return p.next
	}
	return p.until
}

// within returns how many messages may begin in the time d from now, and at most limit.
func (p *pace) within(now time.Time, d time.Duration, limit int) int {
	end := now.Add(d)
	first := p.opens()
	if first.After(end) {
		return 0
	}
	if !p.limited() {
		return limit
	}
	return min(limit, 1+int(end.Sub(later(first, now)).Seconds()*p.limit))
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
