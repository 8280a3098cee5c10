package dispatcher

import (
	"math/rand/v2"
	"time"

	"github.com/outboxmail/outbox/smtpx"
)

// RelayState is the state of a relay.
type RelayState string

// The states of a relay.
const (
	// RelayUnused means that the relay has answered nothing yet. It gets its full share.
	RelayUnused RelayState = "unused"
	// RelayHealthy means that messages got through, or were rejected for themselves. The relay gets its full share.
	RelayHealthy RelayState = "healthy"
	// RelayDegraded means that the relay fails or throttles often. It gets a quarter of its share.
	RelayDegraded RelayState = "degraded"
	// RelayOffline means that the relay gets nothing until a probe succeeds. If its Sender cannot probe, the next trial decides.
	RelayOffline RelayState = "offline"
	// RelayTrial means that the relay gets one message at a time until one gets through.
	RelayTrial RelayState = "trial"
	// RelayPaused means that the relay gets nothing until its provider's allowance is renewed.
	RelayPaused RelayState = "paused"
)

// When a breaker opens and how long it stays open.
const (
	// tripAfter is the number of failures in a row that take a relay offline. A message that gets through ends the row. So do as many
	// ambiguous outcomes, or refused logins beside sessions that work.
	tripAfter = 5
	// worksFor is how long a message that got through shows that the login is right.
	worksFor = time.Minute
	// outageWait is the first wait for a relay that cannot be reached. Each further wait doubles, up to longestOutage.
	outageWait, longestOutage = 5 * time.Second, 5 * time.Minute
	// configWait is the first wait after a fault that an operator has to mend. It doubles up to longestConfig.
	configWait, longestConfig = 30 * time.Second, 15 * time.Minute
	// quotaWait is the first wait for a used-up allowance whose renewal is not known. It doubles up to longestQuota.
	quotaWait, longestQuota = 15 * time.Minute, 4 * time.Hour

	// longThrottle is the wait from which on a relay is paused that throttles. It must ask for it throttleRow times in a row. It is tried
	// again after longestThrottle at the latest.
	longThrottle, longestThrottle = 5 * time.Second, 15 * time.Minute
	throttleRow                   = 3

	// window is the number of last verdicts that count. With degradedFrom bad ones the relay becomes degraded, with degradedTo it
	// recovers.
	window, degradedFrom, degradedTo = 20, 5, 2
	// throttleMemory is how long a relay counts as degraded after it throttled.
	throttleMemory = 30 * time.Second
)

// breaker tracks the health of one relay. It goes by sessions and allowances. The rejection of a message or a recipient shows that
// the relay works. The breaker knows only what this process has seen.
//
// It is closed (healthy or degraded), open (offline or paused) or half open (trial):
//
//	closed → open      a fault of the configuration; tripAfter failures or doubts in a row; a used-up allowance;
//	                   throttling that names a long wait, throttleRow times in a row
//	open → half open   the wait is over, and the probe, if there is one, succeeded
//	half open → closed a message was accepted, or rejected for itself
//	half open → open   another failure: the wait doubles
//
// The gate's mutex guards it.
type breaker struct {
	state     RelayState // never RelayDegraded, which follows from recent
	why       fault      // that took the relay out of use
	last      fault      // the last one, whatever it led to
	until     time.Time  // of offline and paused
	waited    time.Duration
	failures  int       // in a row
	doubts    int       // ambiguous outcomes in a row
	throttles int       // throttled in a row with a long wait named
	worked    time.Time // when a message last got through
	lastFrom  string
	recent    [window]bool // true is bad
	next      int
	degraded  bool       // too many of them were bad, and not yet few enough
	shown     RelayState // the state that was shown last
	shownAt   time.Time  // when it was first shown
	throttled time.Time  // when the relay last throttled
	shared    bool       // all dispatchers know of the pause; it ends for all of them together
}

func newBreaker(now time.Time) breaker {
	return breaker{state: RelayUnused, shown: RelayUnused, shownAt: now}
}

// fault is what made a relay worse than healthy. The zero value is none.
type fault struct {
	class smtpx.Class
	code  int    // of the reply (RFC 5321 §4.2), 0 for none
	words string // the relay's own words, or the error of the connection
}

// verdict is what one attempt shows about a relay.
type verdict struct {
	class  smtpx.Class // "" for a message that was accepted, or rejected for itself
	stage  smtpx.Stage
	scope  smtpx.Scope
	sender string        // envelope sender
	code   int           // of the reply, 0 for none
	words  string        // the relay's own words
	reset  time.Duration // after which the relay asks to be tried again, 0 if it does not say
}

// handshake says whether a stage comes before any message. A failure there is the relay's fault.
func handshake(s smtpx.Stage) bool {
	switch s {
	case smtpx.StageDial, smtpx.StageTLS, smtpx.StageBanner, smtpx.StageEHLO, smtpx.StageStartTLS, smtpx.StageAuth:
		return true
	default:
		return false
	}
}

// fault returns what a verdict says against the relay.
func (v verdict) fault() fault { return fault{class: v.class, code: v.code, words: v.words} }

// inUse says whether the relay gets messages, apart from a trial.
func (b *breaker) inUse() bool { return b.state == RelayHealthy || b.state == RelayUnused }

// note applies a verdict and says whether the state changed.
func (b *breaker) note(now time.Time, v verdict) bool {
	if v.class != "" && v.class != smtpx.ClassRecycle {
		b.last = v.fault()
	}
	b.recent[b.next%window] = v.class != "" && v.class != smtpx.ClassRecycle
	b.next++
	b.judge()
	switch v.class {
	case smtpx.ClassConfig:
		switch {
		case (v.scope == smtpx.ScopeLogin || v.scope == smtpx.ScopeRelay) && b.inUse() && now.Sub(b.worked) < worksFor:
			b.failures++ // one odd answer among sessions that work is no reason to stop
			if b.failures >= tripAfter {
				b.open(now, RelayOffline, v.fault(), configWait, longestConfig, v.reset)
			}
		case v.scope == smtpx.ScopeLogin || v.scope == smtpx.ScopeRelay:
			b.open(now, RelayOffline, v.fault(), configWait, longestConfig, v.reset)
		case v.sender != b.lastFrom: // one sender that may not send is no fault of the relay; several are
			b.lastFrom = v.sender
			b.fail(now, v)
		}
	case smtpx.ClassUnreachable:
		b.fail(now, v)
	case smtpx.ClassQuota:
		b.open(now, RelayPaused, v.fault(), quotaWait, longestQuota, v.reset)
	case smtpx.ClassThrottled:
		b.throttled = now
		b.throttle(now, v)
	case smtpx.ClassAmbiguous:
		if b.doubts++; b.state == RelayTrial || b.doubts >= tripAfter {
			b.open(now, RelayOffline, v.fault(), outageWait, longestOutage, v.reset)
		}
	case smtpx.ClassRecycle:
	default:
		b.close(now)
	}
	return b.show(now)
}

// show notes the present state as the one that was shown, and says whether it is another than before.
func (b *breaker) show(now time.Time) bool {
	state := b.current(now)
	if state == b.shown {
		return false
	}
	b.shown, b.shownAt = state, now
	return true
}

// fail counts a failure and opens the breaker after tripAfter of them, or in a trial.
func (b *breaker) fail(now time.Time, v verdict) {
	b.failures++
	if b.state == RelayTrial || b.failures >= tripAfter {
		b.open(now, RelayOffline, v.fault(), outageWait, longestOutage, v.reset)
	}
}

// throttle pauses the relay if it asks several times in a row, or in a trial, for a wait that is too long for the pace.
func (b *breaker) throttle(now time.Time, v verdict) {
	if v.reset < longThrottle {
		return
	}
	if b.throttles++; b.state == RelayTrial || b.throttles >= throttleRow {
		b.open(now, RelayPaused, v.fault(), longThrottle, longestThrottle, min(v.reset, longestThrottle))
	}
}

// open takes the relay out of use. The wait doubles each time, unless the relay named one. Failures of messages that were under way
// when the breaker opened do not prolong it.
func (b *breaker) open(now time.Time, state RelayState, why fault, first, longest, named time.Duration) {
	if (b.state == RelayOffline || b.state == RelayPaused) && now.Before(b.until) {
		return
	}
	b.waited = min(max(2*b.waited, first), longest)
	wait := b.waited + time.Duration(rand.Float64()*0.2*float64(b.waited)) //nolint:gosec // spreads a fleet; no secret
	if named > 0 {
		wait = named
	}
	b.state, b.why, b.until, b.shared = state, why, now.Add(wait), false
}

// reopen begins the next wait after a failed probe.
func (b *breaker) reopen(now time.Time, v verdict) {
	b.last = v.fault()
	if v.class == smtpx.ClassConfig {
		b.open(now, RelayOffline, v.fault(), configWait, longestConfig, v.reset)
	} else {
		b.open(now, RelayOffline, v.fault(), outageWait, longestOutage, v.reset)
	}
	b.show(now)
}

// close ends a row of failures, and ends a trial.
func (b *breaker) close(now time.Time) {
	b.failures, b.doubts, b.throttles, b.lastFrom, b.worked = 0, 0, 0, "", now
	switch b.state {
	case RelayUnused, RelayTrial:
		b.waited = 0
		b.state, b.why = RelayHealthy, fault{}
	case RelayOffline, RelayPaused: // a message from before; the wait stays
	default:
	}
}

// pause takes the relay out of use for a time that another dispatcher or an operator set.
func (b *breaker) pause(now time.Time, d time.Duration, reason string) {
	if until := now.Add(d); b.state != RelayPaused || until.After(b.until) {
		b.state, b.why, b.until, b.shared = RelayPaused, fault{class: smtpx.ClassQuota, words: reason}, until, true
		b.show(now)
	}
}

// share notes that all dispatchers know of the pause.
func (b *breaker) share() {
	b.shared = b.state == RelayPaused
}

// lift ends a shared pause. It returns false if there is none.
func (b *breaker) lift(now time.Time) bool {
	if b.state != RelayPaused || !b.shared {
		return false
	}
	b.until, b.shared = now, false
	return true
}

// lookAgain says whether the wait is over and the relay may be probed or tried.
func (b *breaker) lookAgain(now time.Time) bool {
	return (b.state == RelayOffline || b.state == RelayPaused) && !now.Before(b.until)
}

// try begins a trial.
func (b *breaker) try(now time.Time) {
	if b.state == RelayOffline || b.state == RelayPaused {
		b.state = RelayTrial
		b.show(now)
	}
}

// wait returns the time until the relay is tried again, 0 if it is in use.
func (b *breaker) wait(now time.Time) time.Duration {
	if b.state != RelayOffline && b.state != RelayPaused {
		return 0
	}
	return max(0, b.until.Sub(now))
}

// status returns the state, when it began, and the fault that led to it.
func (b *breaker) status(now time.Time) (state RelayState, since time.Time, why fault) {
	b.show(now)
	switch b.shown {
	case RelayHealthy, RelayUnused:
		return b.shown, b.shownAt, fault{}
	case RelayDegraded:
		return b.shown, b.shownAt, b.last
	default:
		return b.shown, b.shownAt, b.why
	}
}

func (b *breaker) current(now time.Time) RelayState {
	if b.inUse() && (b.degraded || !b.throttled.IsZero() && now.Sub(b.throttled) < throttleMemory) {
		return RelayDegraded
	}
	return b.state
}

// judge sets degraded by the last verdicts.
func (b *breaker) judge() {
	bad := 0
	for _, failed := range b.recent {
		if failed {
			bad++
		}
	}
	switch {
	case bad >= degradedFrom:
		b.degraded = true
	case bad <= degradedTo:
		b.degraded = false
	}
}
