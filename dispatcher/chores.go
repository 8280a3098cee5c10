package dispatcher

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/outboxmail/outbox/queue"
)

const (
	// reapWait is the time between two looks of the reaper while outcomes wait to be recorded.
	reapWait = 500 * time.Millisecond
	// longestReap is the longest time between two runs of the reaper. A run that finds nothing writes nothing.
	longestReap = 15 * time.Second
	// cleanEvery is the time between two cleanings.
	cleanEvery = time.Minute
	// heartbeatEvery is the time between two heartbeats. A changed relay brings one earlier, but not before heartbeatAgain.
	heartbeatEvery, heartbeatAgain = 30 * time.Second, time.Second
	// pausesEvery is the time between two looks at the pauses of relays.
	pausesEvery = 30 * time.Second
	// superviseEvery is the time between two looks for faults that only a person can mend.
	superviseEvery = 15 * time.Second
)

// chores is the work beside claiming and sending. Each method is a loop with a goroutine of its own, so that none waits for another.
type chores struct {
	cfg      *Config
	log      *slog.Logger
	guard    guard
	ledger   *ledger
	lanes    func() []*lane
	wake     func()
	bulletin *bulletin
	faults   func() []Fault                                    // all but those on the bulletin
	findings findings                                          // of the inspections
	observer func(ctx context.Context, call string, err error) // of calls to the queue; nil for none

	heartbeatNow chan struct{} // buffer of one: the state of a relay changed
	pauseNow     chan struct{} // buffer of one: so that a pause can be shared
}

// reap calls Queue.Reap at intervals until ctx ends.
func (c *chores) reap(ctx context.Context) {
	tick := time.NewTicker(min(c.cfg.Lease/2, longestReap))
	defer tick.Stop()
	failing := false
	for {
		if behind, _ := c.ledger.behind(); behind > 0 {
			// The database was away, and leases of this dispatcher may have lapsed. Record the known outcomes first: the reaper would
			// make them uncertain.
			select {
			case <-ctx.Done():
				return
			case <-time.After(reapWait):
			}
			continue
		}
		limited, cancel := context.WithTimeout(ctx, c.cfg.Lease)
		report, err := c.cfg.Queue.Reap(limited)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			failing = true
			c.log.ErrorContext(ctx, "cannot reap; will try again", "error", err)
		case err == nil:
			failing = false
		}
		if report.Requeued+report.Uncertain+report.Held+report.Expired > 0 {
			c.log.WarnContext(ctx, "reaped", "requeued", report.Requeued, "uncertain", report.Uncertain, "held", report.Held,
				"resent", report.Resent, "expired", report.Expired)
		}
		if report.Requeued+report.Resent > 0 {
			c.wake()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// clean removes what retention no longer keeps, until ctx ends. Any number of dispatchers may do so at once.
func (c *chores) clean(ctx context.Context, q Cleaner) {
	tick := time.NewTicker(cleanEvery)
	defer tick.Stop()
	for {
		report, err := q.Clean(ctx, c.cfg.Retention)
		if err != nil && ctx.Err() == nil {
			c.log.ErrorContext(ctx, "cannot remove finished deliveries; will try again", "error", err)
		}
		if report != (queue.CleanReport{}) {
			c.log.InfoContext(ctx, "finished deliveries removed", "purged", report.Purged, "scrubbed", report.Scrubbed)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// watch calls Config.Watch until ctx ends, and calls it again after an error. Polling goes on meanwhile, so nothing is missed.
func (c *chores) watch(ctx context.Context) {
	policy := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(time.Second), backoff.WithMaxInterval(time.Minute), backoff.WithMaxElapsedTime(0))
	for {
		began := time.Now()
		err := errors.New("the function Watch panicked")
		c.guard.call(ctx, "Watch", func() { err = c.cfg.Watch(ctx, c.wake) })
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > time.Minute {
			policy.Reset()
		}
		wait := policy.NextBackOff()
		if !errors.Is(err, queue.ErrChanged) { // of which the inspection tells
			c.log.WarnContext(ctx, "cannot watch the queue; polling instead", "error", err, "again_in", wait)
		}
		c.wake() // the queue may have changed while the watch ended
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// heartbeat records that the dispatcher runs, until ctx ends, and then that it has stopped.
func (c *chores) heartbeat(ctx context.Context, q Heartbeater) {
	h := queue.Heartbeat{ID: c.cfg.Name, PID: os.Getpid(), Version: version()}
	h.Host, _ = os.Hostname()
	tick := time.NewTicker(heartbeatEvery)
	defer tick.Stop()
	failing := false
	for {
		c.describe(&h)
		limited, cancel := context.WithTimeout(ctx, c.cfg.Lease)
		err := q.Heartbeat(limited, h)
		cancel()
		if ctx.Err() == nil && err != nil && !failing {
			c.log.ErrorContext(ctx, "cannot record the heartbeat; will try again", "error", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.Lease)
			defer cancel()
			if err := q.Retire(last, h.ID); err != nil {
				c.log.WarnContext(last, "cannot record the stop", "error", err)
			}
			return
		case <-tick.C:
		case <-c.heartbeatNow:
			select { // relays whose state changes often must not cause many writes
			case <-ctx.Done():
			case <-time.After(heartbeatAgain):
			}
		}
	}
}

// describe puts the state of relays, and the faults, into a heartbeat.
func (c *chores) describe(h *queue.Heartbeat) {
	h.Relays = make(map[string]queue.RelayHealth)
	now := time.Now()
	for _, l := range c.lanes() {
		r := l.health(now)
		out := queue.RelayHealth{
			State: string(r.State), Class: string(r.Class), Code: r.Code, Reason: r.Reason, Since: r.Since, Routes: r.Routes, Rate: r.Rate,
			Sending: r.Sending, Waiting: r.Waiting, Concurrency: r.Concurrency,
		}
		if r.For > 0 {
			out.NextTry = now.Add(r.For)
		}
		if !math.IsInf(r.PerSecond, 1) {
			out.PerSecond = r.PerSecond
		}
		h.Relays[l.name] = out
	}
	h.Faults = nil
	for _, f := range append(c.faults(), c.bulletin.of(FaultUnserved)...) {
		h.Faults = append(h.Faults, queue.Fault{
			Kind: string(f.Kind), Relay: f.Relay, Route: f.Route, Count: f.Count, Since: f.Since, Error: f.Error,
		})
	}
}

// version returns the version of the program, as far as its build says.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}

// queueFault tells the Observer that a call to the queue failed, or with a nil error that it works again.
func (c *chores) queueFault(ctx context.Context, call string, err error) {
	if c.observer != nil {
		c.guard.call(ctx, "Observer.Queue", func() { c.observer(ctx, call, err) })
	}
}

// supervise looks for faults that only a person can mend, until ctx ends.
func (c *chores) supervise(ctx context.Context) {
	tick := time.NewTicker(superviseEvery)
	defer tick.Stop()
	for {
		c.bulletin.post(ctx, c.faults(), FaultHung, FaultSilent, FaultQueue, FaultUnrecorded, FaultDatabase, FaultChanged)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// unserved tells of the routes on which messages are due and which no relay serves.
func (c *chores) unserved(ctx context.Context, routes []string) {
	found := make([]Fault, len(routes))
	for i, route := range routes {
		found[i] = Fault{Kind: FaultUnserved, Route: route, Since: time.Now()}
	}
	c.bulletin.post(ctx, found, FaultUnserved)
}

// hearPauses applies the pauses that other dispatchers or operators have set, until ctx ends.
func (c *chores) hearPauses(ctx context.Context, q Pauser) {
	tick := time.NewTicker(pausesEvery)
	defer tick.Stop()
	for {
		c.readPauses(ctx, q)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// readPauses applies the pauses once. A queue that does not answer changes nothing.
func (c *chores) readPauses(ctx context.Context, q Pauser) {
	limited, cancel := context.WithTimeout(ctx, c.cfg.Lease)
	defer cancel()
	states, err := q.RelayStates(limited)
	if err != nil {
		return // the claimer reports that the queue does not answer
	}
	for _, l := range c.lanes() {
		i := slices.IndexFunc(states, func(s queue.RelayState) bool { return s.Name == l.name && s.Paused > 0 })
		if i < 0 {
			l.lift() //nolint:contextcheck // sends have a context of their own
		} else {
			l.pause(states[i].Paused, states[i].Reason) //nolint:contextcheck // sends have a context of their own
		}
	}
}

// sharePauses tells the other dispatchers of allowances that are used up. Once stop is closed it does so a last time.
func (c *chores) sharePauses(ctx context.Context, q Pauser, stop <-chan struct{}) {
	for last := false; !last; {
		select {
		case <-c.pauseNow:
		case <-stop:
			last = true
		}
		for _, l := range c.lanes() {
			d, reason := l.gate.unshared(time.Now())
			if d <= 0 {
				continue
			}
			limited, cancel := context.WithTimeout(ctx, c.cfg.Lease)
			err := q.PauseRelay(limited, l.name, d, reason)
			cancel()
			if err != nil {
				c.log.WarnContext(ctx, "cannot share the pause of a relay", "relay", l.name, "error", err)
				continue
			}
			l.gate.share()
		}
	}
}
