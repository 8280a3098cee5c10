package dispatcher

import (
	"context"
	"sync"
	"time"

	"github.com/outboxmail/outbox/queue"
)

// leases holds the references that this engine has claimed and not settled, and the time from which each lease is known to hold.
type leases struct {
	mu   sync.Mutex
	refs map[queue.Ref]time.Time
}

func newLeases() *leases { return &leases{refs: make(map[queue.Ref]time.Time)} }

func (h *leases) add(j *job) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ref := range j.refs() {
		h.refs[ref] = j.claimedAt
	}
}

func (h *leases) remove(refs []queue.Ref) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ref := range refs {
		delete(h.refs, ref)
	}
}

// renewed notes that a call which began at a time extended the leases, except the lost ones.
func (h *leases) renewed(refs, lost []queue.Ref, at time.Time) {
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

// valid says whether the leases of all refs still hold by the clock of this process.
func (h *leases) valid(refs []queue.Ref, lease time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ref := range refs {
		if since, ours := h.refs[ref]; !ours || time.Since(since) >= lease {
			return false
		}
	}
	return true
}

func (h *leases) empty() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.refs) == 0
}

func (h *leases) list() []queue.Ref {
	h.mu.Lock()
	defer h.mu.Unlock()
	refs := make([]queue.Ref, 0, len(h.refs))
	for ref := range h.refs {
		refs = append(refs, ref)
	}
	return refs
}

// keep renews the leases three times in a lease, until ctx ends. A message whose lease is lost cannot be fenced any more, so it is
// not sent.
func (e *engine) keep(ctx context.Context) {
	tick := time.NewTicker(e.cfg.Lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		refs := e.leases.list()
		if len(refs) == 0 {
			continue
		}
		asked := time.Now()
		limited, cancel := context.WithTimeout(ctx, e.cfg.Lease/3) // a call that hangs must not delay the next one
		lost, err := e.cfg.Queue.Renew(limited, refs, e.cfg.Lease)
		cancel()
		if err == nil {
			e.leases.renewed(refs, lost, asked)
		}
		switch {
		case err != nil && ctx.Err() == nil:
			e.log.ErrorContext(ctx, "cannot renew leases", "leases", len(refs), "error", err)
		case len(lost) > 0:
			e.warnLost(ctx, lost)
		}
	}
}

// warnLost reports lost leases, except those that were settled meanwhile.
func (e *engine) warnLost(ctx context.Context, lost []queue.Ref) {
	var ours []queue.Ref
	e.leases.mu.Lock()
	for _, ref := range lost {
		if _, held := e.leases.refs[ref]; held {
			ours = append(ours, ref)
		}
	}
	e.leases.mu.Unlock()
	if len(ours) > 0 {
		e.log.WarnContext(ctx, "leases lapsed before they were renewed", "deliveries", len(ours))
		notify(ctx, e, "Observer.Lost", e.cfg.Observer.Lost, ours)
	}
}
