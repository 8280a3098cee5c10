package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// Health says how a dispatcher does, for the endpoints of liveness and readiness.
type Health struct {
	// Live is true while Run goes on and its claimer turns. A process that is not live for long should be restarted.
	Live bool
	// Ready is true while messages can be delivered: it is live, the queue answers, and at least one relay can send.
	Ready bool
	// Reasons says in words why it is not live or not ready, and what else is wrong. Empty when all is well.
	Reasons []string
	// Relays are the relays in the order of the configuration.
	Relays []RelayHealth
}

// RelayHealth says how a relay does.
type RelayHealth struct {
	Name  string
	State RelayState
	// Reason is in the relay's own words, which may name addresses; Since is when it is so.
	Reason string
	Since  time.Time
	// For is how long it is until the relay is looked at again, 0 for one that is in use.
	For time.Duration
	// Sending and Waiting count messages.
	Sending, Waiting int
	// Concurrency is how many messages it is sent at once as it does now, PerSecond how many of them may be begun in a second,
	// +Inf when it does not throttle.
	Concurrency int
	PerSecond   float64
}

// Health looks without waiting for anything.
func (d *Dispatcher) Health() Health {
	d.mu.Lock()
	var e *engine
	for candidate := range d.engines {
		if !candidate.drain {
			e = candidate
		}
	}
	d.mu.Unlock()
	if e == nil {
		return Health{Reasons: []string{"the dispatcher does not run"}}
	}
	h := Health{Live: true, Ready: true}
	if still := time.Since(time.Unix(0, e.turned.Load())); still > d.cfg.Poll+2*d.cfg.Lease && !e.settler.behind.Load() {
		h.Live, h.Ready = false, false
		h.Reasons = append(h.Reasons, fmt.Sprintf("the claimer has not turned for %v", still.Round(time.Second)))
	}
	if words := e.failing.Load(); words != nil {
		h.Ready = false
		h.Reasons = append(h.Reasons, "the queue does not answer: "+*words)
	}
	able := false
	now := time.Now()
	for _, l := range e.snapshot() {
		r := RelayHealth{Name: l.name, Concurrency: l.concurrency(), PerSecond: l.pace.perSecond(), For: l.breaker.wait(now)}
		r.State, r.Since, r.Reason = l.breaker.status(now)
		r.Waiting, r.Sending = l.jobs.count()
		able = able || l.able()
		if r.State != RelayHealthy {
			h.Reasons = append(h.Reasons, l.health())
		}
		h.Relays = append(h.Relays, r)
	}
	if !able {
		h.Ready = false
		h.Reasons = append(h.Reasons, "no relay can send")
	}
	return h
}

// health says in a few words how the relay does, for the heartbeat.
func (l *lane) health() string {
	state, _, reason := l.breaker.status(time.Now())
	words := string(state)
	if reason != "" {
		words += ": " + reason
	} else if limit := l.pace.perSecond(); !math.IsInf(limit, 1) {
		words += fmt.Sprintf(": throttled, now %.2g messages a second", limit)
	}
	return words
}

// Pauser is a [Queue] that keeps the pauses of relays for all dispatchers of a database. *store.Store is one. Without it each
// dispatcher finds out for itself that a provider's allowance is used up.
type Pauser interface {
	// PauseRelay keeps every dispatcher from claiming for a relay, for a time by the clock of the database.
	PauseRelay(ctx context.Context, name string, d time.Duration, reason string) error
	// RelayStates lists what the dispatchers share about relays.
	RelayStates(ctx context.Context) ([]queue.RelayState, error)
}

// sharePause lets the other dispatchers know of an allowance that is used up.
func (l *lane) sharePause(ctx context.Context) {
	q, ok := l.cfg.Queue.(Pauser)
	if !ok {
		return
	}
	now := time.Now()
	state, _, reason := l.breaker.status(now)
	if state != RelayPaused {
		return
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.cfg.Lease)
	defer cancel()
	if err := q.PauseRelay(limited, l.name, l.breaker.wait(now), reason); err != nil {
		l.log.WarnContext(ctx, "cannot share the pause of a relay", "relay", l.name, "error", err)
		return
	}
	l.breaker.share()
}

// heedPauses takes up the pauses that other dispatchers, or operators, have set.
func (e *engine) heedPauses(ctx context.Context) {
	q, ok := e.cfg.Queue.(Pauser)
	if !ok {
		return
	}
	limited, cancel := context.WithTimeout(ctx, e.cfg.Lease)
	defer cancel()
	states, err := q.RelayStates(limited)
	if err != nil {
		return // the heartbeat beside it tells of it
	}
	now := time.Now()
	for _, l := range e.snapshot() {
		i := slices.IndexFunc(states, func(s queue.RelayState) bool { return s.Name == l.name && s.Paused > 0 })
		switch {
		case i < 0:
			if l.breaker.lift(now) {
				poke(l.again)
			}
		case states[i].Paused > l.breaker.wait(now)+time.Second:
			wasDown := !l.able()
			l.breaker.pause(now, states[i].Paused, states[i].Reason)
			l.jobs.rebound()
			poke(l.down)
			if !wasDown {
				l.report(ctx, smtpx.ClassQuota)
			}
		}
	}
}

// revive brings the relay back when it was taken out: it waits, probes where the Sender can, and lets a message try. It ends
// with the lane.
func (l *lane) revive(ctx context.Context) {
	for {
		select {
		case <-l.closing:
			return
		case <-l.down:
		}
		for !l.able() {
			if !l.sleep(l.breaker.wait(time.Now())) {
				return
			}
			if !l.breaker.lookAgain(time.Now()) {
				continue // the pause was made longer meanwhile
			}
			if state, _, _ := l.breaker.status(time.Now()); state == RelayOffline && !l.probe(ctx) {
				continue
			}
			l.breaker.try(time.Now())
			l.pace.warm()
			l.report(ctx, "")
			l.jobs.rebound()
			l.hopeful.Store(true)
			l.kicked()
		}
	}
}

// sleep waits, and is false when the lane is closed meanwhile.
func (l *lane) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.again:
		return true
	case <-l.closing:
		return false
	}
}

// probe says whether the relay answers; where the Sender cannot tell, a message has to try.
func (l *lane) probe(ctx context.Context) bool {
	p, ok := l.relay().Sender.(Prober)
	if !ok {
		return true
	}
	limited, cancel := context.WithTimeout(ctx, l.cfg.Lease)
	var closer sync.WaitGroup
	defer closer.Wait()
	defer cancel()
	closer.Go(func() { // a lane that closes does not wait for its probe
		select {
		case <-l.closing:
			cancel()
		case <-limited.Done():
		}
	})
	err := errors.New("the probe panicked")
	l.safely(ctx, "Prober.Probe", func() { _, err = p.Probe(limited) })
	if err == nil {
		return true
	}
	e := verdictOf(err)
	v := verdict{class: smtpx.ClassUnreachable, stage: e.Stage, scope: e.Scope(), words: wordsOf(e)}
	if e.Class == smtpx.ClassConfig {
		v.class = smtpx.ClassConfig
	}
	l.breaker.reopen(time.Now(), v)
	l.log.WarnContext(ctx, "relay_probe_failed", "relay", l.name, "class", v.class, "reason", masked(v.words),
		"for", l.breaker.wait(time.Now()))
	return false
}
