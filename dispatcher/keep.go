package dispatcher

import (
	"context"
	"sync"
	"time"

	"github.com/outboxmail/outbox/queue"
)

// held is what this engine has leases on, from the claim until the outcome is recorded, and since when they are known to hold.
type held struct {
	mu   sync.Mutex
	refs map[queue.Ref]time.Time
}

func newHeld() *held { return &held{refs: make(map[queue.Ref]time.Time)} }

func (h *held) add(j *job) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ref := range j.refs() {
		h.refs[ref] = j.claimedAt
	}
}

func (h *held) remove(refs []queue.Ref) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ref := range refs {
		delete(h.refs, ref)
	}
}

// renewed notes that the leases were extended by a call that began at a time, but for those that it found lost.
func (h *held) renewed(refs, lost []queue.Ref, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ref := range refs {
		if _, ours := h.refs[ref]; ours {
			h.refs[ref] = at
		}
	}
	for _, ref := range lost {
		if _, ours := h.refs[ref]; ours {
			h.refs[ref] = time.Time{}
		}
	}
}

// valid says whether the leases of all refs still hold, by this process's own clock.
func (h *held) valid(refs []queue.Ref, lease time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ref := range refs {
		if since, ours := h.refs[ref]; !ours || time.Since(since) >= lease {
			return false
		}
	}
	return true
}

func (h *held) empty() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.refs) == 0
}

func (h *held) list() []queue.Ref {
	h.mu.Lock()
	defer h.mu.Unlock()
	refs := make([]queue.Ref, 0, len(h.refs))
	for ref := range h.refs {
		refs = append(refs, ref)
	}
	return refs
}

// keep renews the leases three times in their length. A lease that is lost is not fought for: the stage of its message
// cannot be recorded any more, and so it is not sent.
func (e *engine) keep(ctx context.Context) {
	tick := time.NewTicker(e.cfg.Lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		refs := e.held.list()
		if len(refs) == 0 {
			continue
		}
		asked := time.Now()
		limited, cancel := context.WithTimeout(ctx, e.cfg.Lease/3) // one that hangs must not let the next be too late
		lost, err := e.cfg.Queue.Renew(limited, refs, e.cfg.Lease)
		cancel()
		if err == nil {
			e.held.renewed(refs, lost, asked)
		}
		switch {
		case err != nil && ctx.Err() == nil:
			e.log.ErrorContext(ctx, "cannot renew leases", "leases", len(refs), "error", err)
		case len(lost) > 0:
			e.warnLost(ctx, lost)
		}
	}
}

// warnLost reports lost leases, except those that were settled while the renewal ran.
func (e *engine) warnLost(ctx context.Context, lost []queue.Ref) {
	var ours []queue.Ref
	e.held.mu.Lock()
	for _, ref := range lost {
		if _, held := e.held.refs[ref]; held {
			ours = append(ours, ref)
		}
	}
	e.held.mu.Unlock()
	if len(ours) > 0 {
		e.log.WarnContext(ctx, "leases lapsed before they were renewed", "deliveries", len(ours))
		notify(ctx, e, "Observer.Lost", e.cfg.Observer.Lost, ours)
	}
}
