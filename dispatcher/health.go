package dispatcher

import (
	"time"
)

// Health is the state of a dispatcher, for liveness and readiness checks.
type Health struct {
	// Live is true while Run goes on and looks at its queue. Restart a process that is not live for long.
	Live bool
	// Ready is true if messages can be delivered: Run is live, the queue answers, and at least one relay can send.
	Ready bool
	// Reasons says in words why the dispatcher is not live or not ready, and what else is wrong. Empty if all is well. Programs read
	// Relays and Faults instead.
	Reasons []string
	// Relays lists the relays in the order of the configuration.
	Relays []RelayHealth
	// Faults lists what only a person can mend, apart from the relays.
	Faults []Fault
}

// Health returns the present state. It does not block.
func (d *Dispatcher) Health() Health {
	d.mu.Lock()
	var e *engine
	for candidate := range d.engines {
		if !candidate.claimer.drain {
			e = candidate
		}
	}
	d.mu.Unlock()
	if e == nil {
		return Health{Reasons: []string{"the dispatcher does not run"}}
	}
	return e.health()
}

// health returns the state of one Run.
func (e *engine) health() Health {
	h := Health{Live: true, Ready: true, Faults: append(e.faults(), e.bulletin.of(FaultUnserved)...)}
	for _, f := range h.Faults {
		h.Live = h.Live && f.Kind != FaultSilent
		h.Ready = h.Ready && f.Kind != FaultSilent && f.Kind != FaultQueue && f.Kind != FaultDatabase
		h.Reasons = append(h.Reasons, f.String())
	}
	able := false
	now := time.Now()
	for _, l := range e.snapshot() {
		r := l.health(now)
		able = able || r.Concurrency > 0
		if r.State != RelayHealthy && r.State != RelayUnused {
			h.Reasons = append(h.Reasons, r.String())
		}
		h.Relays = append(h.Relays, r)
	}
	if !able {
		h.Ready = false
		h.Reasons = append(h.Reasons, "no relay can send")
	}
	return h
}

// faults returns the present faults, except for routes that no relay serves.
func (e *engine) faults() (list []Fault) {
	if f, ok := e.ledger.fault(); ok {
		list = append(list, f)
	}
	behind, _ := e.ledger.behind()
	last := time.Unix(0, e.claimer.lastLook.Load())
	if still := time.Since(last); still > e.cfg.Poll+2*e.cfg.Lease && behind == 0 {
		list = append(list, Fault{Kind: FaultSilent, Since: last})
	}
	if f := e.claimer.failing.Load(); f != nil {
		list = append(list, *f)
	}
	list = append(list, e.chores.findings.faults()...)
	for _, l := range e.snapshot() {
		if n, since := l.longerThan(e.cfg.SendTimeout); n > 0 {
			list = append(list, Fault{Kind: FaultHung, Relay: l.name, Count: n, Since: since})
		}
	}
	return list
}
