package dispatcher

import (
	"context"
	"time"
)

// behindReap is how soon the reaper looks again while outcomes wait to be recorded.
const behindReap = 500 * time.Millisecond

// longestReap is how seldom the reaper looks at the longest. It reads without a lock and writes only what it finds.
const longestReap = 15 * time.Second

// reap has the queue do what time has made due, until ctx ends.
func (e *engine) reap(ctx context.Context) {
	tick := time.NewTicker(min(e.cfg.Lease/2, longestReap))
	defer tick.Stop()
	failing := false
	for {
		if e.settler.behind.Load() {
			// The database was away. Leases of what this dispatcher has sent may have lapsed meanwhile, and their outcomes come
			// first: the reaper would call them uncertain.
			select {
			case <-ctx.Done():
				return
			case <-time.After(behindReap):
			}
			continue
		}
		limited, cancel := context.WithTimeout(ctx, e.cfg.Lease)
		report, err := e.cfg.Queue.Reap(limited)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			failing = true
			e.log.ErrorContext(ctx, "cannot reap; trying again", "error", err)
		case err == nil:
			failing = false
		}
		if report.Requeued+report.Uncertain+report.Expired > 0 {
			e.log.WarnContext(ctx, "reaped", "requeued", report.Requeued, "uncertain", report.Uncertain, "resent", report.Resent,
				"expired", report.Expired)
		}
		if report.Requeued+report.Resent > 0 {
			e.Wake()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
