package dispatcher

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/outboxmail/outbox/smtpx"
)

// RelayState says in a word how a relay does.
type RelayState string

// The states of a relay.
const (
	// RelayHealthy takes its full share.
	RelayHealthy RelayState = "healthy"
	// RelayDegraded fails or throttles often enough to take a quarter of its share only.
	RelayDegraded RelayState = "degraded"
	// RelayOffline takes nothing until a probe, or where its Sender has none the next trial, finds it back.
	RelayOffline RelayState = "offline"
	// RelayTrial is given one message at a time until one of them shows that it is back.
	RelayTrial RelayState = "trial"
	// RelayPaused takes nothing until its provider's allowance is renewed.
	RelayPaused RelayState = "paused"
)

// What opens a breaker and how long it stays open.
const (
	// tripAfter is how many failures in a row, with no session between them that came about, take a relay offline.
	tripAfter = 5
	// A relay that cannot be reached is looked at again after outageWait, and then half as often each time.
	outageWait, longestOutage = 5 * time.Second, 5 * time.Minute
	// One that an operator must mend is not worth as many looks.
	configWait, longestConfig = 30 * time.Second, 15 * time.Minute
	// An allowance that is used up and of which nobody knows when it is renewed.
	quotaWait, longestQuota = 15 * time.Minute, 4 * time.Hour

	// window is how many verdicts a relay is judged by; degradedFrom bad ones among them make it degraded, degradedTo of them
	// let it recover.
	window, degradedFrom, degradedTo = 20, 5, 2
	// throttleMemory is how long a relay counts as degraded after it throttled.
	throttleMemory = 30 * time.Second
)

// breaker is what is known of the health of one relay. It goes by what sessions and allowances do, never by the rejection of
// a message or a recipient, which shows that the relay works. Its times are of this process alone.
//
// It is closed (healthy or degraded), open (offline or paused) or half open (trial):
//
//	closed → open      a fault of the configuration; tripAfter failures in a row; a used-up allowance
//	open → half open   the wait is over, and the probe, where there is one, went well
//	half open → closed a message got through, or was rejected for itself
//	half open → open   it failed again: the wait doubles
type breaker struct {
	mu        sync.Mutex
	state     RelayState // but for RelayDegraded, which recent says
	reason    string     // in the relay's words
	since     time.Time
	until     time.Time // of offline and paused
	waited    time.Duration
	failures  int // in a row
	lastFrom  string
	recent    [window]bool // true is bad
	next      int
	worn      bool      // too many of them were bad, and not yet few enough
	throttled time.Time // last time
	shared    bool      // the pause is known to all dispatchers, and ends when they are told so
}

func newBreaker(now time.Time) *breaker { return &breaker{state: RelayHealthy, since: now} }

// verdict is what one attempt says about a relay.
type verdict struct {
	class  smtpx.Class // "" for a message that was accepted, or rejected for itself
	stage  smtpx.Stage
	scope  smtpx.Scope
	sender string        // whose message it was
	words  string        // of the relay
	reset  time.Duration // after which the relay may be asked again, when it said so
}

// handshake says whether a session fails before it can carry any message: its fault is the relay's, whoever the sender is.
func handshake(s smtpx.Stage) bool {
	switch s {
	case smtpx.StageDial, smtpx.StageTLS, smtpx.StageBanner, smtpx.StageEHLO, smtpx.StageStartTLS, smtpx.StageAuth:
		return true
	default:
		return false
	}
}

// note takes a verdict and says whether the state changed by it.
func (b *breaker) note(now time.Time, v verdict) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.current(now)
	b.recent[b.next%window] = v.class != "" && v.class != smtpx.ClassRecycle
	b.next++
	b.weigh()
	switch v.class {
	case smtpx.ClassConfig:
		switch {
		case v.scope == smtpx.ScopeLogin || v.scope == smtpx.ScopeRelay:
			b.open(now, RelayOffline, v.words, configWait, longestConfig, v.reset)
		case v.sender != b.lastFrom: // one sender that may not send is no fault of the relay; that nobody may is
			b.lastFrom = v.sender
			b.fail(now, v)
		}
	case smtpx.ClassUnreachable:
		b.fail(now, v)
	case smtpx.ClassQuota:
		b.open(now, RelayPaused, v.words, quotaWait, longestQuota, v.reset)
	case smtpx.ClassThrottled:
		b.throttled = now
	case smtpx.ClassRecycle, smtpx.ClassAmbiguous:
	default:
		b.close(now)
	}
	return b.current(now) != before
}

// fail counts a failure, and opens the breaker when it is one too many.
func (b *breaker) fail(now time.Time, v verdict) {
	b.failures++
	if b.state == RelayTrial || b.failures >= tripAfter {
		b.open(now, RelayOffline, v.words, outageWait, longestOutage, v.reset)
	}
}

// open takes the relay out for a time that doubles from once to the next, or for the one that the relay named. What fails
// late, because it was under way when the breaker opened, does not make it longer.
func (b *breaker) open(now time.Time, state RelayState, words string, first, longest, named time.Duration) {
	if (b.state == RelayOffline || b.state == RelayPaused) && now.Before(b.until) {
		return
	}
	b.waited = min(max(2*b.waited, first), longest)
	wait := b.waited + time.Duration(rand.Float64()*0.2*float64(b.waited)) //nolint:gosec // spreads a fleet; no secret
	if named > 0 {
		wait = named
	}
	b.state, b.reason, b.since, b.until, b.shared = state, words, now, now.Add(wait), false
}

// reopen begins the next wait after a probe that failed.
func (b *breaker) reopen(now time.Time, v verdict) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v.class == smtpx.ClassConfig {
		b.open(now, RelayOffline, v.words, configWait, longestConfig, v.reset)
		return
	}
	b.open(now, RelayOffline, v.words, outageWait, longestOutage, v.reset)
}

// close lets the relay have its share.
func (b *breaker) close(now time.Time) {
	b.failures, b.lastFrom = 0, ""
	switch b.state {
	case RelayTrial:
		b.waited = 0
		b.state, b.reason, b.since = RelayHealthy, "", now
	case RelayOffline, RelayPaused: // a straggler from before; the wait stays
	default:
	}
}

// pause keeps the relay out for a time because another dispatcher says so.
func (b *breaker) pause(now time.Time, d time.Duration, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if until := now.Add(d); b.state != RelayPaused || until.After(b.until) {
		if b.state != RelayPaused {
			b.since = now
		}
		b.state, b.reason, b.until, b.shared = RelayPaused, reason, until, true
	}
}

// share notes that the others know of the pause.
func (b *breaker) share() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shared = b.state == RelayPaused
}

// lift ends a pause that all dispatchers knew of, and says whether there was one.
func (b *breaker) lift(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != RelayPaused || !b.shared {
		return false
	}
	b.until, b.shared = now, false
	return true
}

// lookAgain says whether the wait is over, so that the relay may be probed or tried.
func (b *breaker) lookAgain(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return (b.state == RelayOffline || b.state == RelayPaused) && !now.Before(b.until)
}

// try lets one message through to see whether the relay is back.
func (b *breaker) try(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == RelayOffline || b.state == RelayPaused {
		b.state, b.since = RelayTrial, now
	}
}

// wait is how long it is until the relay is looked at again, 0 for one that is in use.
func (b *breaker) wait(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != RelayOffline && b.state != RelayPaused {
		return 0
	}
	return max(0, b.until.Sub(now))
}

// status is the state, since when, and why.
func (b *breaker) status(now time.Time) (state RelayState, since time.Time, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.current(now), b.since, b.reason
}

func (b *breaker) current(now time.Time) RelayState {
	if b.state != RelayHealthy {
		return b.state
	}
	if b.worn || !b.throttled.IsZero() && now.Sub(b.throttled) < throttleMemory {
		return RelayDegraded
	}
	return RelayHealthy
}

// weigh judges the relay by its last verdicts.
func (b *breaker) weigh() {
	bad := 0
	for _, failed := range b.recent {
		if failed {
			bad++
		}
	}
	switch {
	case bad >= degradedFrom:
		b.worn = true
	case bad <= degradedTo:
		b.worn = false
	}
}
