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

// Health is the state of a dispatcher, for liveness and readiness checks.
type Health struct {
	// Live is true while Run goes on and looks at its queue. Restart a process that is not live for long.
	Live bool
	// Ready is true if messages can be delivered: Run is live, the queue answers, and at least one relay can send.
	Ready bool
	// Reasons says why the dispatcher is not live or not ready, and what else is wrong. Empty if all is well.
	Reasons []string
	// Relays lists the relays in the order of the configuration.
	Relays []RelayHealth
}

// RelayHealth is the state of a relay.
type RelayHealth struct {
	Name  string
	State RelayState
	// Reason is the relay's own words. It may contain addresses. Since is when the state began.
	Reason string
	Since  time.Time
	// For is the time until the relay is tried again. Zero if it is in use.
	For time.Duration
	// Sending and Waiting count the messages of the relay that this dispatcher has claimed.
	Sending, Waiting int
	// Concurrency is how many messages the relay may be sent at once now. PerSecond is how many may begin in a second, +Inf unless
	// the relay throttles.
	Concurrency int
	PerSecond   float64
}

// Health returns the present state. It does not block.
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
	behind, _ := e.ledger.behind()
	if trouble := e.ledger.trouble(); trouble != "" {
		h.Reasons = append(h.Reasons, trouble)
	}
	if still := time.Since(time.Unix(0, e.lastLook.Load())); still > d.cfg.Poll+2*d.cfg.Lease && behind == 0 {
		h.Live, h.Ready = false, false
		h.Reasons = append(h.Reasons, fmt.Sprintf("no look at the queue for %v", still.Round(time.Second)))
	}
	if words := e.failing.Load(); words != nil {
		h.Ready = false
		h.Reasons = append(h.Reasons, "the queue does not answer: "+*words)
	}
	reasons, usable := e.findings.reasons()
	h.Reasons, h.Ready = append(h.Reasons, reasons...), h.Ready && usable
	if words := e.stalled.Load(); words != nil {
		h.Reasons = append(h.Reasons, *words...)
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

// health describes the state of the relay in a few words, for the heartbeat.
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

// Pauser is a [Queue] that keeps the pauses of relays for all dispatchers of a database. *store.Store is one. With another queue
// each dispatcher learns for itself that an allowance is used up.
type Pauser interface {
	// PauseRelay stops all claims for a relay for the time d, by the clock of the database.
	PauseRelay(ctx context.Context, name string, d time.Duration, reason string) error
	// RelayStates lists the pauses.
	RelayStates(ctx context.Context) ([]queue.RelayState, error)
}

// sharePause tells the other dispatchers that an allowance is used up.
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

// readPauses applies the pauses that other dispatchers or operators have set.
func (e *engine) readPauses(ctx context.Context) {
	q, ok := e.cfg.Queue.(Pauser)
	if !ok {
		return
	}
	limited, cancel := context.WithTimeout(ctx, e.cfg.Lease)
	defer cancel()
	states, err := q.RelayStates(limited)
	if err != nil {
		return // the heartbeat, which comes next, reports the fault
	}
	now := time.Now()
	for _, l := range e.snapshot() {
		i := slices.IndexFunc(states, func(s queue.RelayState) bool { return s.Name == l.name && s.Paused > 0 })
		switch {
		case i < 0:
			if l.breaker.lift(now) {
				signal(l.again)
			}
		case states[i].Paused > l.breaker.wait(now)+time.Second:
			wasDown := !l.able()
			l.breaker.pause(now, states[i].Paused, states[i].Reason)
			l.jobs.rebound()
			signal(l.down)
			if !wasDown {
				l.report(ctx, smtpx.ClassQuota)
			}
		}
	}
}

// restore brings the relay back after the breaker opened: it waits, probes if the Sender can, and begins a trial. It returns when
// the lane is closed.
func (l *lane) restore(ctx context.Context) {
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
				continue // the pause was prolonged meanwhile
			}
			if state, _, _ := l.breaker.status(time.Now()); state == RelayOffline && !l.probe(ctx) {
				continue
			}
			l.breaker.try(time.Now())
			l.pace.startSlowly()
			l.report(ctx, "")
			l.jobs.rebound()
			l.recovered.Store(true)
			l.progressed()
		}
	}
}

// sleep waits. It returns false if the lane is closed meanwhile.
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

// probe says whether a trial may begin. It is true if the Sender cannot probe.
func (l *lane) probe(ctx context.Context) bool {
	p, ok := l.relay().Sender.(Prober)
	if !ok {
		return true
	}
	limited, cancel := context.WithTimeout(ctx, l.cfg.Lease)
	var closer sync.WaitGroup
	defer closer.Wait()
	defer cancel()
	closer.Go(func() { // a closing lane breaks off its probe
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
