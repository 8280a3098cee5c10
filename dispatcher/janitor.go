package dispatcher

import (
	"context"
	"os"
	"runtime/debug"
	"time"

	"github.com/outboxmail/outbox/queue"
)

// Cleaner is a [Queue] that can remove what is finished. *store.Store is one.
type Cleaner interface {
	// Clean removes what the retention no longer keeps, in batches, and returns what it removed also beside an error.
	Clean(ctx context.Context, keep queue.Retention) (queue.CleanReport, error)
}

// Heartbeater is a [Queue] that remembers which dispatchers live. *store.Store is one. It is for people who look, not for
// the leases, which do without.
type Heartbeater interface {
	// Heartbeat notes that a dispatcher lives.
	Heartbeat(ctx context.Context, h queue.Heartbeat) error
	// Retire forgets a dispatcher that stopped.
	Retire(ctx context.Context, id string) error
}

const (
	// cleanEvery is how often the janitor looks for what is no longer kept.
	cleanEvery = time.Minute
	// beatEvery is how often a dispatcher says that it lives, and beatAgain how soon at the earliest it says more because the state
	// of a relay changed.
	beatEvery, beatAgain = 30 * time.Second, time.Second
)

// clean has the queue remove what is no longer kept, until ctx ends. Any number of dispatchers may do so at once.
func (e *engine) clean(ctx context.Context, c Cleaner) {
	tick := time.NewTicker(cleanEvery)
	defer tick.Stop()
	for {
		report, err := c.Clean(ctx, e.cfg.Retention)
		if err != nil && ctx.Err() == nil {
			e.log.ErrorContext(ctx, "cannot remove what is finished; trying again", "error", err)
		}
		if report != (queue.CleanReport{}) {
			e.log.InfoContext(ctx, "removed what is finished", "purged", report.Purged, "scrubbed", report.Scrubbed)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// beat says that the dispatcher lives, until ctx ends, and then that it stopped.
func (e *engine) beat(ctx context.Context, q Heartbeater) {
	h := queue.Heartbeat{ID: e.cfg.Name, PID: os.Getpid(), Version: version(), Relays: make(map[string]string)}
	h.Host, _ = os.Hostname()
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	failing := false
	for {
		e.heedPauses(ctx)
		clear(h.Relays)
		for _, l := range e.snapshot() {
			h.Relays[l.name] = l.health()
		}
		err := q.Heartbeat(ctx, h)
		if ctx.Err() == nil && err != nil && !failing {
			e.log.ErrorContext(ctx, "cannot note the heartbeat; trying again", "error", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.cfg.Lease)
			defer cancel()
			if err := q.Retire(last, h.ID); err != nil {
				e.log.WarnContext(last, "cannot note the stop", "error", err)
			}
			return
		case <-tick.C:
		case <-e.beatNow:
			select { // relays that change often must not make us write often
			case <-ctx.Done():
			case <-time.After(beatAgain):
			}
		}
	}
}

// version is what the build says of the program.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}
