package dispatcher

import (
	"context"
	"os"
	"runtime/debug"
	"time"

	"github.com/outboxmail/outbox/queue"
)

// Cleaner is a [Queue] that can remove finished deliveries. *store.Store is one.
type Cleaner interface {
	// Clean removes, in batches, what the retention no longer keeps. It returns what it removed, even with an error.
	Clean(ctx context.Context, keep queue.Retention) (queue.CleanReport, error)
}

// Heartbeater is a [Queue] that lists the dispatchers that run. *store.Store is one. The list is for operators; leases do not depend
// on it.
type Heartbeater interface {
	// Heartbeat records that a dispatcher runs.
	Heartbeat(ctx context.Context, h queue.Heartbeat) error
	// Retire removes a dispatcher that has stopped.
	Retire(ctx context.Context, id string) error
}

const (
	// cleanEvery is the time between two cleanings.
	cleanEvery = time.Minute
	// heartbeatEvery is the time between two heartbeats. A changed relay brings one earlier, but not before heartbeatAgain.
	heartbeatEvery, heartbeatAgain = 30 * time.Second, time.Second
)

// clean removes what retention no longer keeps, until ctx ends. Any number of dispatchers may do so at once.
func (e *engine) clean(ctx context.Context, c Cleaner) {
	tick := time.NewTicker(cleanEvery)
	defer tick.Stop()
	for {
		report, err := c.Clean(ctx, e.cfg.Retention)
		if err != nil && ctx.Err() == nil {
			e.log.ErrorContext(ctx, "cannot remove finished deliveries; will try again", "error", err)
		}
		if report != (queue.CleanReport{}) {
			e.log.InfoContext(ctx, "finished deliveries removed", "purged", report.Purged, "scrubbed", report.Scrubbed)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// heartbeat records that the dispatcher runs, until ctx ends, and then that it has stopped.
func (e *engine) heartbeat(ctx context.Context, q Heartbeater) {
	h := queue.Heartbeat{ID: e.cfg.Name, PID: os.Getpid(), Version: version(), Relays: make(map[string]string)}
	h.Host, _ = os.Hostname()
	tick := time.NewTicker(heartbeatEvery)
	defer tick.Stop()
	failing := false
	for {
		e.readPauses(ctx)
		clear(h.Relays)
		for _, l := range e.snapshot() {
			h.Relays[l.name] = l.health()
		}
		err := q.Heartbeat(ctx, h)
		if ctx.Err() == nil && err != nil && !failing {
			e.log.ErrorContext(ctx, "cannot record the heartbeat; will try again", "error", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.cfg.Lease)
			defer cancel()
			if err := q.Retire(last, h.ID); err != nil {
				e.log.WarnContext(last, "cannot record the stop", "error", err)
			}
			return
		case <-tick.C:
		case <-e.heartbeatNow:
			select { // relays whose state changes often must not cause many writes
			case <-ctx.Done():
			case <-time.After(heartbeatAgain):
			}
		}
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
