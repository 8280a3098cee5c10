package dispatcher

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

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
	failing, emptyLooks := false, 0
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
			onlyBacklog = true
			if e.drain && e.leases.empty() {
				onlyBacklog = false // the last outcome is recorded: see whether anything is left
			}
		}
		idle := e.leases.empty()
		got, err := e.claimAll(ctx, onlyBacklog, woken)
		switch {
		case err == nil && failing:
			failing = false
			e.failing.Store(nil)
			e.log.InfoContext(ctx, "the queue answers again")
			e.queueFault(ctx, "claim", nil)
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil && e.drain:
			return err
		case err != nil && !failing:
			failing = true
			words := err.Error()
			e.failing.Store(&words)
			e.log.ErrorContext(ctx, "cannot claim; will try again at every poll", "error", err)
			e.queueFault(ctx, "claim", err)
		}
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
		case got > 0 && slices.ContainsFunc(e.snapshot(), func(l *lane) bool { return l.guessed }):
			wait = min(wait, shortestWait/2) // urgent messages may wait on other routes
		case got > 0:
			wait = min(wait, shortestWait) // sending comes first; asking what else is due can wait
		default:
			wait = e.untilDue(ctx, emptyLooks)
		}
		timer.Reset(wait)
	}
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
	fenced := r.Fence == FenceAll
	asked := time.Now()
	limited, cancel := e.claimContext(ctx)
	defer cancel()
	claimed, err := e.cfg.Queue.Claim(limited, queue.ClaimRequest{
		Owner: e.cfg.Name, Routes: routes, Limit: limit, InlineBytes: inlineBytes, Lease: e.cfg.Lease, Relay: l.name, Rate: r.Rate,
		Fenced: fenced, Expect: expect,
	})
	took := time.Since(asked)
	jobs := make([]*job, len(claimed))
	deliveries := 0
	for i, c := range claimed { // even after an error the claimed deliveries are ours
		deliveries += len(c.Deliveries)
		jobs[i] = &job{claimed: c, claimedAt: asked, fenced: fenced}
		e.leases.add(jobs[i])
		l.last = queue.Due{Route: c.Route, Priority: c.Priority}
	}
	l.claimedSome(len(claimed))
	l.backlog = deliveries >= limit
	if len(claimed) > 0 {
		notify(ctx, e, "Observer.Claimed", e.cfg.Observer.Claimed,
			ClaimedEvent{Relay: l.name, Messages: len(claimed), Deliveries: deliveries, Took: took})
	}
	for _, j := range jobs {
		e.laneOf(lanes, l, &j.claimed).put(j)
	}
	return len(claimed), err
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
		l.settler.put(same(j, queue.Settlement{Outcome: queue.Deferred, Uncounted: true, Delay: blockedDelay})...)
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
