package dispatcher

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outboxmail/outbox/queue"
)

// ledger owns what one engine has leased. Nothing else calls Claim, Fence, Renew and Settle of the queue. A ref enters the ledger
// by a claim and leaves it by one settlement. In between the ledger renews its claim, and keeps a known outcome until it is
// recorded. Only the deadline of a stop makes it drop one.
type ledger struct {
	queue Queue
	owner string
	lease time.Duration
	log   *slog.Logger
	// changed is called after outcomes were recorded. lost is called with the refs of lapsed leases.
	changed func()
	lost    func(ctx context.Context, refs []queue.Ref)

	requests    chan *fenceRequest
	fenceClosed chan struct{}
	sending     atomic.Int64 // messages that a sender has and that have not asked for the fence
	underway    atomic.Int64 // messages whose outcome is not known

	outcomes    chan *record
	settleEnded chan struct{} // closed when the outcomes were recorded or abandoned, except those set aside
	asideShrank chan struct{} // buffer of one
	report      Report        // guarded by mu; complete once everything has stopped

	mu      sync.Mutex
	claims  map[string]*holding // by token
	open    int                 // refs of all claims
	soonest time.Time           // when the first recorded delay ends; zero for none since the last look
	aside   []*record           // outcomes that fail although others can be recorded
	settle  settleState
}

// holding is a claim of which not everything is settled.
type holding struct {
	refs     map[queue.Ref]bool
	since    time.Time // when its lease was known to hold; zero for a lost one
	stubborn bool      // it cannot be renewed together with others
}

func newLedger(cfg *Config, log *slog.Logger, changed func(), lost func(ctx context.Context, refs []queue.Ref)) *ledger {
	return &ledger{
		queue: cfg.Queue, owner: cfg.Name, lease: cfg.Lease, log: log, changed: changed, lost: lost,
		requests: make(chan *fenceRequest, fenceBatch), fenceClosed: make(chan struct{}),
		outcomes: make(chan *record, settleBatch), settleEnded: make(chan struct{}), asideShrank: make(chan struct{}, 1),
		claims: make(map[string]*holding), settle: settleState{limit: cfg.Lease / settleTries},
	}
}

// claim leases deliveries and returns a job for each message. Even with an error the returned jobs are leased.
func (g *ledger) claim(ctx context.Context, req queue.ClaimRequest) ([]*job, error) {
	asked := time.Now()
	claimed, err := g.queue.Claim(ctx, req)
	jobs := make([]*job, len(claimed))
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, c := range claimed {
		jobs[i] = &job{claimed: c, claimedAt: asked, fenced: req.Fenced}
		for _, ref := range jobs[i].refs() {
			h := g.claims[ref.Token]
			if h == nil {
				h = &holding{refs: make(map[queue.Ref]bool), since: asked}
				g.claims[ref.Token] = h
			}
			h.refs[ref] = true
			g.open++
		}
	}
	return jobs, err
}

// drop removes a ref that is settled or abandoned. The caller holds the mutex.
func (g *ledger) drop(ref queue.Ref) {
	h := g.claims[ref.Token]
	if h == nil || !h.refs[ref] {
		return
	}
	delete(h.refs, ref)
	g.open--
	if len(h.refs) == 0 {
		delete(g.claims, ref.Token)
	}
}

// valid says whether the lease of a job still holds by the clock of this process. It keeps a margin for the time until the message
// is sent.
func (g *ledger) valid(j *job) bool {
	const margin = 6 // parts of a lease
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, ref := range j.refs() {
		if h := g.claims[ref.Token]; h == nil || !h.refs[ref] || time.Since(h.since) >= g.lease-g.lease/margin {
			return false
		}
	}
	return true
}

// idle says whether nothing is leased, except for outcomes that were set aside.
func (g *ledger) idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open == len(g.aside)
}

// takeSoonest returns the time at which the first delivery is due that was put back since the last call.
func (g *ledger) takeSoonest() (due time.Time, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	due, g.soonest = g.soonest, time.Time{}
	return due, !due.IsZero()
}

const (
	// renewals is how often leases are renewed in a lease.
	renewals = 3
	// callLimit is the part of a lease after which a call is broken off that hangs. partLimit is that part for calls that look for the
	// deliveries at fault, but at least shortestLimit.
	callLimit, partLimit = 6, 60
	shortestLimit        = 250 * time.Millisecond
	// longestRenewal is the part of a lease after which a renewal leaves out the rest until the next time.
	longestRenewal = 4
)

// renewLoop renews the claims three times in a lease, until ctx ends. A message whose lease is lost cannot be fenced any more, so it
// is not sent.
func (g *ledger) renewLoop(ctx context.Context) {
	tick := time.NewTicker(g.lease / renewals)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		g.renewAll(ctx)
	}
}

// renewAll renews all claims. Those that could not be renewed with the others the last time are renewed one by one, after the rest.
func (g *ledger) renewAll(ctx context.Context) {
	g.mu.Lock()
	tokens := make([]string, 0, len(g.claims))
	var single []string
	for token, h := range g.claims {
		if h.stubborn {
			single = append(single, token)
		} else {
			tokens = append(tokens, token)
		}
		h.stubborn = false
	}
	g.mu.Unlock()
	began := time.Now()
	var failed []string
	limit := g.lease / callLimit
	renew := func(part []string) error {
		busy, err := g.renew(ctx, part, limit)
		limit = min(limit, max(g.lease/partLimit, shortestLimit))
		failed = append(failed, busy...)
		return err
	}
	rest, worked, err := inParts(tokens, renew)
	for i, token := range single {
		if time.Since(began) > g.lease/longestRenewal { // the next renewal of the others must not be late
			rest = append(rest, single[i:]...)
			break
		}
		if e := renew([]string{token}); e != nil {
			rest, err = append(rest, token), e
		}
	}
	failed = append(failed, rest...)
	if len(failed) == 0 || ctx.Err() != nil {
		return
	}
	g.mu.Lock()
	for _, token := range rest {
		if h := g.claims[token]; h != nil && worked {
			h.stubborn = true
		}
	}
	g.mu.Unlock()
	g.log.ErrorContext(ctx, "cannot renew leases; will try again", "claims", len(failed), "error", err)
}

// renew renews claims by one call. It returns those that the call passed over because they are locked.
func (g *ledger) renew(ctx context.Context, tokens []string, limit time.Duration) (busy []string, err error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	asked := time.Now()
	gone, err := g.queue.Renew(limited, tokens, g.lease)
	if passed, ok := errors.AsType[*queue.BusyError](err); ok {
		busy = passed.Tokens
	} else if err != nil {
		return nil, err
	}
	var lost []queue.Ref
	g.mu.Lock()
	for _, token := range tokens {
		h := g.claims[token]
		switch {
		case h == nil: // it was settled meanwhile
		case slices.Contains(gone, token):
			h.since = time.Time{}
			lost = slices.AppendSeq(lost, maps.Keys(h.refs))
		case !slices.Contains(busy, token):
			h.since = asked
		}
	}
	g.mu.Unlock()
	if len(lost) > 0 {
		g.log.WarnContext(ctx, "leases lapsed before they were renewed", "deliveries", len(lost))
		g.lost(ctx, lost)
	}
	return busy, nil
}

// setOf returns a set of refs.
func setOf(refs []queue.Ref) map[queue.Ref]bool {
	set := make(map[queue.Ref]bool, len(refs))
	for _, ref := range refs {
		set[ref] = true
	}
	return set
}
