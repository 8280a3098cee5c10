package dispatcher

import (
	"context"
	"time"
)

// reapWait is the time between two looks of the reaper while outcomes wait to be recorded.
const reapWait = 500 * time.Millisecond

// longestReap is the longest time between two runs of the reaper. A run that finds nothing writes nothing.
const longestReap = 15 * time.Second

// reap calls Queue.Reap at intervals until ctx ends.
func (e *engine) reap(ctx context.Context) {
	tick := time.NewTicker(min(e.cfg.Lease/2, longestReap))
	defer tick.Stop()
	failing := false
	for {
		if behind, _ := e.ledger.behind(); behind > 0 {
			// The database was away, and leases of this dispatcher may have lapsed. Record the known outcomes first: the reaper would
			// make them uncertain.
			select {
			case <-ctx.Done():
				return
			case <-time.After(reapWait):
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
			e.log.ErrorContext(ctx, "cannot reap; will try again", "error", err)
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
