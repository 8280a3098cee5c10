package dispatcher

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// retryClaim is the longest time between two claims while they fail.
const retryClaim = 5 * time.Second

// shortestWait is the shortest time between two looks at the queue. Without it the claimer would spin if something is due that
// cannot be claimed.
const shortestWait = 20 * time.Millisecond

// claimLoop claims for the lanes that have room, until ctx ends. A Flush also ends when nothing is left to wait for, or at an error
// of the queue. Run tries again at the next poll instead.
func (e *engine) claimLoop(ctx context.Context) error {
	if e.drain {
		if _, err := e.cfg.Queue.Reap(ctx); err != nil {
			return cmp.Or(ctx.Err(), err)
		}
		e.readPauses(ctx)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	next := time.Now() // when the timer ends
	emptyLooks := 0
	for {
		e.lastLook.Store(time.Now().UnixNano())
		onlyBacklog, woken := false, false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-e.wake:
			woken = true
		case <-timer.C:
		case <-e.progress:
			if due, ok := e.ledger.takeSoonest(); ok && due.Before(next) { // it was put back, and nobody else tells of it
				next = later(due, time.Now().Add(shortestWait))
				timer.Reset(time.Until(next))
			}
			onlyBacklog = !e.drain || !e.ledger.idle() // the last outcome is recorded: see whether anything is left
		}
		if behind, err := e.ledger.behind(); e.drain && behind > e.cfg.Lease {
			return fmt.Errorf("cannot record outcomes: %w", err)
		}
		idle := e.ledger.idle()
		got, err := e.claimAll(ctx, onlyBacklog, woken)
		if err != nil && (e.drain || ctx.Err() != nil) {
			return cmp.Or(ctx.Err(), err)
		}
		e.claimWorks(ctx, err)
		if e.drain && idle && got == 0 && !onlyBacklog && err == nil && !e.outOfTurn {
			more, err := e.allowanceLacks(ctx)
			if err != nil || !more {
				return err
			}
		}
		if err == nil && onlyBacklog {
			continue // the timer still runs
		}
		emptyLooks++
		if got > 0 || err != nil {
			emptyLooks = 0
		}
		wait := e.cfg.Poll
		switch {
		case err != nil:
			wait = min(wait, retryClaim)
		case got > 0 && slices.ContainsFunc(e.snapshot(), func(l *lane) bool { return l.guessed }):
			wait = min(wait, shortestWait/2) // urgent messages may wait on other routes
		case got > 0:
			wait = min(wait, shortestWait) // sending comes first; asking what else is due can wait
		default:
			wait = e.untilDue(ctx, emptyLooks)
		}
		next = time.Now().Add(wait)
		timer.Reset(wait)
	}
}

// claimWorks notes whether claims work, and tells of it when that changes.
func (e *engine) claimWorks(ctx context.Context, err error) {
	failing := e.failing.Load() != nil
	switch {
	case err == nil && failing:
		e.failing.Store(nil)
		e.log.InfoContext(ctx, "the queue answers again")
		e.queueFault(ctx, "claim", nil)
	case err != nil:
		words := err.Error()
		e.failing.Store(&words)
		if failing { // told already; Health has the latest words
			return
		}
		e.log.ErrorContext(ctx, "cannot claim; will try again", "error", err)
		e.queueFault(ctx, "claim", err)
	}
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// allowanceLacks says whether a message is due that waits only for the rate of its relay.
func (e *engine) allowanceLacks(ctx context.Context) (bool, error) {
	e.readPauses(ctx)
	for _, l := range e.snapshot() {
		r := l.relay()
		if r.Rate.PerSecond <= 0 || !l.able() {
			continue
		}
		// Expired deliveries count as due but are never claimed, so reap them first.
		if _, err := e.cfg.Queue.Reap(ctx); err != nil {
			return false, cmp.Or(ctx.Err(), err)
		}
		routes, ok, err := e.routesOf(ctx, e.snapshot(), l)
		if err != nil {
			return false, cmp.Or(ctx.Err(), err)
		}
		if !ok {
			continue // a backup that has nothing to do
		}
		due, err := e.due(ctx, routes)
		if err != nil {
			return false, cmp.Or(ctx.Err(), err)
		}
		if slices.ContainsFunc(due, func(d queue.Due) bool { return !d.Paused && d.In <= 0 }) {
			return true, nil
		}
	}
	return false, nil
}

// due asks the queue what waits. It gives up after a lease.
func (e *engine) due(ctx context.Context, routes []string) ([]queue.Due, error) {
	limited, cancel := context.WithTimeout(ctx, e.cfg.Lease)
	defer cancel()
	return e.cfg.Queue.Due(limited, routes)
}

// claimAll makes a claim for each lane in turn and returns how many messages were claimed.
func (e *engine) claimAll(ctx context.Context, onlyBacklog, woken bool) (int, error) {
	total := 0
	e.outOfTurn = false
	lanes := e.inTurn()
	for _, l := range lanes {
		n, err := e.claimFor(ctx, lanes, l, onlyBacklog, woken)
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// claimFor claims for one lane, up to its room and its share. A claim that is filled shows a backlog. The next claim then waits
// until half of the room is free, so that under load one claim brings many messages.
func (e *engine) claimFor(ctx context.Context, lanes []*lane, l *lane, onlyBacklog, woken bool) (int, error) {
	if l.recovered.Swap(false) {
		l.backlog = true
	}
	if !l.able() {
		l.backlog = false
		return 0, nil
	}
	r, room := l.relay(), l.room()
	free := l.free()
	if free <= 0 {
		l.backlog = true
		l.putBackBlocked()
		return 0, nil
	}
	if onlyBacklog && (!l.backlog || free < room/2) {
		return 0, nil
	}
	routes, ok, err := e.routesOf(ctx, lanes, l)
	if err != nil || !ok {
		l.backlog = false
		return 0, err
	}
	limit := e.share(lanes, l, free)
	if limit <= 0 {
		l.backlog, e.outOfTurn = true, true // the others come first
		return 0, nil
	}
	expect := l.expected(woken && free == room, routes)
	asked := time.Now()
	limited, cancel := e.claimContext(ctx)
	defer cancel()
	jobs, err := e.ledger.claim(limited, queue.ClaimRequest{
		Owner: e.cfg.Name, Routes: routes, Limit: limit, InlineBytes: inlineBytes, Lease: e.cfg.Lease, Relay: l.name, Rate: r.Rate,
		Fenced: r.Fence == FenceAll, Expect: expect,
	})
	took := time.Since(asked)
	deliveries := 0
	for _, j := range jobs {
		deliveries += len(j.claimed.Deliveries)
		l.last = queue.Due{Route: j.claimed.Route, Priority: j.claimed.Priority}
	}
	l.claimedSome(len(jobs))
	l.backlog = deliveries >= limit
	if len(jobs) > 0 {
		notify(ctx, e, "Observer.Claimed", e.cfg.Observer.Claimed,
			ClaimedEvent{Relay: l.name, Messages: len(jobs), Deliveries: deliveries, Took: took})
	}
	for _, j := range jobs {
		to := e.laneOf(lanes, l, &j.claimed)
		if to != l && (to.free() <= 0 || to.relay().Rate.PerSecond > 0) {
			// It is in doubt with a relay that has no room, or whose allowance was not asked: that relay claims it itself.
			// The delays differ, so that some are due whenever it has room.
			delay := shortestElsewhere + rand.N(longestElsewhere-shortestElsewhere) //nolint:gosec // no secret
			e.ledger.put(same(j, queue.Settlement{Outcome: queue.Recycled, Delay: max(delay, to.breaker.wait(time.Now()))})...)
			continue
		}
		j.fenced = j.fenced || to != l // the claim names l: only a fence says which relay got the message
		to.put(j)
	}
	return len(jobs), err
}

// expected returns where the lane's last message came from, if the lane is idle and the queue has changed: the claim looks there
// first. It does so every other time only, so that urgent messages elsewhere do not wait for long.
func (l *lane) expected(woken bool, routes []string) queue.Due {
	l.guessed = woken && !l.guessed && l.last.Route != "" && (len(routes) == 0 || slices.Contains(routes, l.last.Route))
	if !l.guessed {
		return queue.Due{}
	}
	return l.last
}

// stopClaimWait is how long a claim may go on after the stop began.
const stopClaimWait = 5 * time.Second

// claimContext returns the context of a claim. It ends after a lease. It ends some seconds after ctx, not with it: a claim that is
// broken off may have taken effect, and then nobody could hand back its deliveries.
func (e *engine) claimContext(ctx context.Context) (limited context.Context, cancel func()) {
	limited, end := context.WithTimeout(context.WithoutCancel(ctx), e.cfg.Lease)
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(min(stopClaimWait, e.cfg.Grace))
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

const (
	// shortestElsewhere and longestElsewhere bound the time for which a message waits that was put back because only another relay may
	// have it.
	shortestElsewhere, longestElsewhere = 5 * time.Second, 30 * time.Second
	// blockedDelay is how long a message waits that was put back because its recipients' domain is full.
	blockedDelay = 5 * time.Second
	// blockedEvery is the shortest time between two such removals.
	blockedEvery = time.Second
)

// putBackBlocked puts back messages that fill the lane and wait for a full domain.
func (l *lane) putBackBlocked() {
	perDomain := l.relay().PerDomain
	if perDomain <= 0 || l.drain || time.Since(l.putBackAt) < blockedEvery {
		return
	}
	l.putBackAt = time.Now()
	for _, j := range l.jobs.takeBlocked(perDomain) {
		l.ledger.put(same(j, queue.Settlement{Outcome: queue.Recycled, Delay: blockedDelay})...)
	}
}

// laneOf returns the lane for a message that l claimed. A message in doubt goes to its relay again: that relay may recognise the
// copy, any other would send it for certain. A message that l could not send a moment ago goes to another lane that can. A lane
// with a rate does not take it, because the claim drew on the allowance of l.
func (e *engine) laneOf(lanes []*lane, l *lane, c *queue.Claimed) *lane {
	failed := true
	for _, d := range c.Deliveries {
		if d.Class == string(smtpx.ClassAmbiguous) {
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

// untilDue returns how long the claimer may sleep: until something becomes due, or until the next poll. After several looks that
// claimed nothing, although something is due, the sleep grows.
func (e *engine) untilDue(ctx context.Context, emptyLooks int) time.Duration {
	wait := e.cfg.Poll
	for _, l := range e.snapshot() {
		if !l.able() {
			continue
		}
		r := l.relay()
		due, err := e.due(ctx, r.Routes)
		if err != nil {
			return wait // the next claim says what is wrong
		}
		soonest := shortestWait << min(max(emptyLooks-1, 0), 6)
		if r.Rate.PerSecond > 0 { // the message may wait for the allowance
			soonest = max(shortestWait, time.Duration(float64(time.Second)/r.Rate.PerSecond))
		}
		for _, d := range due {
			if !d.Paused {
				wait = min(wait, max(d.In, soonest))
			}
		}
	}
	return wait
}
