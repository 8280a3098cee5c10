package dispatcher

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

const (
	// retryClaim is the longest time between two claims while they fail.
	retryClaim = 5 * time.Second
	// lookWhole is the time between two looks at the routes that no relay serves.
	lookWhole = 15 * time.Second
	// stopClaimWait is how long a claim may go on after the stop began.
	stopClaimWait = 5 * time.Second
	// shortestElsewhere and longestElsewhere bound the time for which a message waits that was put back because only another relay may
	// have it.
	shortestElsewhere, longestElsewhere = 5 * time.Second, 30 * time.Second
)

// claimer is the loop of the dispatcher: it waits, looks at the queue, lets the planner decide, claims, and puts what it got into lanes.
type claimer struct {
	cfg      *Config
	log      *slog.Logger
	guard    guard
	ledger   *ledger
	lanes    func() []*lane
	drain    bool            // Flush: stop when nothing is due
	wake     <-chan struct{} // the dispatcher's; nil in a Flush
	progress <-chan struct{} // a slot was freed, or an outcome recorded
	pauses   func(ctx context.Context)
	orphans  func(ctx context.Context, routes []string) // told after each look at all routes
	fault    func(ctx context.Context, err error)       // told when claims begin to fail, and with nil when they work again

	planner *planner
	whole   time.Time // when all routes were last looked at

	lastLook atomic.Int64 // when the loop last turned, in Unix nanoseconds
	failing  atomic.Pointer[Fault]
}

// loop claims for the lanes that have room, until ctx ends. A Flush also ends when nothing is left to wait for, or at an error of the
// queue. Run tries again later instead.
func (c *claimer) loop(ctx context.Context) error {
	if c.drain {
		if _, err := c.cfg.Queue.Reap(ctx); err != nil {
			return cmp.Or(ctx.Err(), err)
		}
		c.pauses(ctx)
	}
	look := time.Now() // when to look at the queue
	timer := time.NewTimer(0)
	defer timer.Stop()
	why := causeWake // the first claim does not wait for a look
	for {
		c.lastLook.Store(time.Now().UnixNano())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.wake:
			why = causeWake
		case <-c.progress:
			why = max(why, causeProgress)
			if due, ok := c.ledger.takeSoonest(); ok { // it was put back, and nobody else tells of it
				look = sooner(look, later(due, time.Now().Add(shortestWait)))
			}
			if c.drain && c.ledger.idle() { // the last outcome is recorded: see whether anything is left
				why = causeWake
			}
		case <-timer.C:
		}
		now := time.Now()
		if why == causeProgress && !now.Before(look) {
			why = causeLook
		}
		if behind, err := c.ledger.behind(); c.drain && behind > c.cfg.Lease {
			return fmt.Errorf("cannot record outcomes: %w", err)
		}
		idle := c.ledger.idle()
		done, err := c.turn(ctx, why)
		if err != nil && (c.drain || ctx.Err() != nil) {
			return cmp.Or(ctx.Err(), err)
		}
		c.works(ctx, err)
		if c.drain && idle && done.got == 0 && why != causeProgress && !done.plan.held {
			more, err := c.allowanceLacks(ctx)
			if err != nil || !more {
				return err
			}
		}
		now = time.Now()
		switch {
		case err != nil:
			look = now.Add(min(c.cfg.Poll, retryClaim))
		case !done.plan.next.IsZero():
			look = done.plan.next
		case done.short:
			look = sooner(look, now.Add(shortestWait))
		}
		if !c.drain && !serveAll(c.lanes()) { // somebody has to look for routes that no relay serves
			look = sooner(look, c.whole.Add(lookWhole))
		}
		timer.Reset(max(0, time.Until(sooner(look, done.plan.turn))))
		why = causeProgress
	}
}

// serveAll says whether one of the lanes serves every route.
func serveAll(lanes []*lane) bool {
	return slices.ContainsFunc(lanes, func(l *lane) bool { return len(l.relay().Routes) == 0 })
}

// sooner returns the earlier of two times. Zero means never.
func sooner(a, b time.Time) time.Time {
	if b.IsZero() || !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}

// turned is what came of one turn of the loop.
type turned struct {
	plan  plan
	got   int  // messages that were claimed
	short bool // a claim was not filled
}

// turn plans, and carries the plan out.
func (c *claimer) turn(ctx context.Context, why cause) (out turned, err error) {
	lanes := c.lanes()
	now := time.Now()
	views := make([]view, len(lanes))
	for i, l := range lanes {
		if views[i] = l.view(now); views[i].Free <= 0 && !c.drain {
			l.partCrowd(now)
		}
	}
	var due []queue.Due
	whole := false
	if c.planner.needsDue(views, why) {
		if due, whole, err = c.look(ctx, views); err != nil {
			return out, err
		}
	}
	out.plan = c.planner.plan(now, views, due, why)
	if whole {
		c.orphans(ctx, out.plan.orphans)
	}
	named := func(name string) *lane {
		return lanes[slices.IndexFunc(lanes, func(l *lane) bool { return l.name == name })]
	}
	for _, b := range out.plan.back {
		named(b.Lane).giveBack(b.Most, b.Routes)
	}
	for _, o := range out.plan.orders {
		n, short, err := c.claim(ctx, lanes, views, named(o.Lane), o)
		out.got += n
		out.short = out.short || short
		if err != nil {
			return out, err
		}
	}
	if why == causeLook {
		c.planner.turned(due, out.got)
	}
	return out, nil
}

// look asks the queue once what waits for all lanes. whole says that it asked for every route.
func (c *claimer) look(ctx context.Context, views []view) (due []queue.Due, whole bool, err error) {
	var routes []string
	for _, v := range views {
		if whole = len(v.Routes) == 0; whole {
			break
		}
		routes = append(routes, v.Routes...)
	}
	if now := time.Now(); whole || now.Sub(c.whole) >= lookWhole {
		whole, c.whole, routes = true, now, nil
	}
	slices.Sort(routes)
	due, err = c.due(ctx, slices.Compact(routes))
	if due == nil {
		due = []queue.Due{}
	}
	return due, whole, err
}

// due asks the queue what waits. It gives up after a lease.
func (c *claimer) due(ctx context.Context, routes []string) ([]queue.Due, error) {
	limited, cancel := context.WithTimeout(ctx, c.cfg.Lease)
	defer cancel()
	return c.cfg.Queue.Due(limited, routes)
}

// works notes whether claims work, and tells of it when that changes.
func (c *claimer) works(ctx context.Context, err error) {
	failing := c.failing.Load() != nil
	switch {
	case err == nil && failing:
		c.failing.Store(nil)
		c.log.InfoContext(ctx, "the queue answers again")
		c.fault(ctx, nil)
	case err != nil:
		f := Fault{Kind: FaultQueue, Since: time.Now(), Error: oneLine(err.Error())}
		if before := c.failing.Load(); before != nil {
			f.Since = before.Since
		}
		c.failing.Store(&f)
		if failing { // told already; Health has the latest words
			return
		}
		c.log.ErrorContext(ctx, "cannot claim; will try again", "error", err)
		c.fault(ctx, err)
	}
}

// allowanceLacks says whether a message is due that waits only for the rate of its relay.
func (c *claimer) allowanceLacks(ctx context.Context) (bool, error) {
	c.pauses(ctx)
	lanes := c.lanes()
	now := time.Now()
	views := make([]view, len(lanes))
	for i, l := range lanes {
		views[i] = l.view(now)
	}
	if !slices.ContainsFunc(views, func(v view) bool { return v.Able && v.Rate.PerSecond > 0 }) {
		return false, nil
	}
	// Expired deliveries count as due but are never claimed, so reap them first.
	if _, err := c.cfg.Queue.Reap(ctx); err != nil {
		return false, cmp.Or(ctx.Err(), err)
	}
	due, _, err := c.look(ctx, views)
	if err != nil {
		return false, cmp.Or(ctx.Err(), err)
	}
	for _, v := range views {
		routes, ok := routesOf(views, v, due)
		if ok && v.Able && v.Rate.PerSecond > 0 &&
			slices.ContainsFunc(due, func(d queue.Due) bool { return isDue(d) && serves(routes, d.Route) }) {
			return true, nil
		}
	}
	return false, nil
}

// claim carries out one order. short says that the queue had less than was asked for.
func (c *claimer) claim(ctx context.Context, lanes []*lane, views []view, l *lane, o order) (n int, short bool, err error) {
	r := l.relay()
	asked := time.Now()
	limited, cancel := c.claimContext(ctx)
	defer cancel()
	jobs, err := c.ledger.claim(limited, queue.ClaimRequest{
		Owner: c.cfg.Name, Routes: o.Routes, Limit: o.Limit, InlineBytes: inlineBytes, Lease: c.cfg.Lease, Relay: l.name, Rate: r.Rate,
		Fenced: r.Fence == FenceAll, Expect: o.Expect,
	})
	took := time.Since(asked)
	deliveries := 0
	from := make([]queue.Due, len(jobs))
	for i, j := range jobs {
		deliveries += len(j.claimed.Deliveries)
		from[i] = queue.Due{Route: j.claimed.Route, Priority: j.claimed.Priority}
	}
	c.planner.claimed(views, o, from, deliveries)
	if len(jobs) > 0 {
		tell(ctx, c.guard, "Observer.Claimed", c.cfg.Observer.Claimed,
			ClaimedEvent{Relay: l.name, Messages: len(jobs), Deliveries: deliveries, Took: took})
	}
	for _, j := range jobs {
		c.put(lanes, l, j) //nolint:contextcheck // sends have a context of their own
	}
	return len(jobs), deliveries < o.Limit, err
}

// put gives a message that was claimed for one lane to the lane that has to send it. If that cannot take it, the message goes back: due at
// once if another lane can take it, and later if not.
func (c *claimer) put(lanes []*lane, l *lane, j *job) {
	to := laneOf(lanes, l, &j.claimed)
	if to != l && (to.free() <= 0 || to.relay().Rate.PerSecond > 0) {
		// It is in doubt with a relay that has no room, or whose allowance was not asked: that relay claims it itself.
		// The delays differ, so that some are due whenever it has room.
		delay := shortestElsewhere + rand.N(longestElsewhere-shortestElsewhere) //nolint:gosec // no secret
		c.ledger.put(same(j, queue.Settlement{Outcome: queue.Recycled, Delay: max(delay, to.gate.wait(time.Now()))})...)
		return
	}
	j.fenced = j.fenced || to != l // the claim names l: only a fence says which relay got the message
	if to.put(j) {
		return
	}
	s := queue.Settlement{Outcome: queue.Recycled, Delay: c.cfg.Poll}
	switch {
	case j.doubted():
		s.Delay = max(s.Delay, to.gate.wait(time.Now()))
	case another(lanes, to.name, j.claimed.Route):
		s.Delay = 0
	}
	c.ledger.put(same(j, s)...)
}

// another says whether a relay other than the named one can take messages of a route.
func another(lanes []*lane, name, route string) bool {
	return slices.ContainsFunc(lanes, func(other *lane) bool {
		return other.name != name && other.gate.able() && other.relay().serves(route)
	})
}

// laneOf returns the lane for a message that l claimed. A message in doubt goes to its relay again: that relay may recognise the
// copy, any other would send it for certain. A message that l could not send a moment ago goes to another lane that can. A lane
// with a rate does not take it, because the claim drew on the allowance of l.
func laneOf(lanes []*lane, l *lane, c *queue.Claimed) *lane {
	failed := true
	for _, d := range c.Deliveries {
		if doubtful(d) {
			for _, other := range lanes {
				if other.name == d.Relay {
					return other
				}
			}
		}
		failed = failed && d.Relay == l.name && failsOver(smtpx.Class(d.Class))
	}
	if failed {
		for _, other := range lanes {
			r := other.relay()
			if other != l && other.free() > 0 && r.serves(c.Route) && r.Rate.PerSecond <= 0 && r.Backup == l.relay().Backup {
				return other
			}
		}
	}
	return l
}

// claimContext returns the context of a claim. It ends after a lease. It ends some seconds after ctx, not with it: a claim that is
// broken off may have taken effect, and then nobody could hand back its deliveries.
func (c *claimer) claimContext(ctx context.Context) (limited context.Context, cancel func()) {
	limited, end := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.Lease)
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(min(stopClaimWait, c.cfg.Grace))
		defer timer.Stop()
		select {
		case <-timer.C:
			end()
		case <-limited.Done():
		}
	})
	return limited, func() {
		stop()
		end()
	}
}
