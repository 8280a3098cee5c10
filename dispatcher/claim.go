package dispatcher

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// shortestWait keeps the claimer from spinning when the queue says that something is due that cannot be claimed, because
// another dispatcher has it or its deadline passed.
const shortestWait = 20 * time.Millisecond

// claimLoop claims for the lanes that have room, until ctx ends or, when draining, there is nothing left to wait for.
// A queue that cannot be reached ends a drain; otherwise it is asked again at the next poll.
func (e *engine) claimLoop(ctx context.Context) error {
	if e.drain {
		if _, err := e.cfg.Queue.Reap(ctx); err != nil {
			return cmp.Or(ctx.Err(), err)
		}
		e.heedPauses(ctx)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	failing, barren := false, 0
	for {
		e.turned.Store(time.Now().UnixNano())
		onlyHungry, woken := false, false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-e.wake:
			woken = true
		case <-timer.C:
		case <-e.kick:
			onlyHungry = true
			if e.drain && e.held.empty() {
				onlyHungry = false // the last outcome is recorded: look whether anything is left
			}
		}
		idle := e.held.empty()
		got, err := e.claimAll(ctx, onlyHungry, woken)
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
			e.log.ErrorContext(ctx, "cannot claim; trying again at every poll", "error", err)
			e.queueFault(ctx, "claim", err)
		}
		if e.drain && idle && got == 0 && !onlyHungry && err == nil && !e.outOfTurn {
			more, err := e.allowanceLacks(ctx)
			if err != nil || !more {
				return err
			}
		}
		if err == nil && onlyHungry {
			continue // the timer still runs
		}
		barren++
		if got > 0 || err != nil {
			barren = 0
		}
		wait := e.cfg.Poll
		switch {
		case err != nil:
		case got > 0 && slices.ContainsFunc(e.snapshot(), func(l *lane) bool { return l.guessed }):
			wait = min(wait, shortestWait/2) // what is urgent may wait elsewhere
		case got > 0:
			wait = min(wait, shortestWait) // what was claimed goes first: the question what else is due can wait
		default:
			wait = e.untilDue(ctx, barren)
		}
		timer.Reset(wait)
	}
}

// allowanceLacks says whether a lane with a rate has something due that it may only send later.
func (e *engine) allowanceLacks(ctx context.Context) (bool, error) {
	e.heedPauses(ctx)
	for _, l := range e.snapshot() {
		r := l.relay()
		if r.Rate.PerSecond <= 0 || !l.able() {
			continue
		}
		// What is past its deadline is due as well, and nobody would claim it.
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

// due asks what waits. A queue that does not answer within a lease does not answer.
func (e *engine) due(ctx context.Context, routes []string) ([]queue.Due, error) {
	limited, cancel := context.WithTimeout(ctx, e.cfg.Lease)
	defer cancel()
	return e.cfg.Queue.Due(limited, routes)
}

// claimAll gives each lane that can send a claim, in their turn, and returns how many messages were claimed.
func (e *engine) claimAll(ctx context.Context, onlyHungry, woken bool) (int, error) {
	total := 0
	e.outOfTurn = false
	lanes := e.inTurn()
	for _, l := range lanes {
		n, err := e.claimFor(ctx, lanes, l, onlyHungry, woken)
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// claimFor claims as much as the lane has room for and its share grants. A lane whose last claim was filled is hungry: there is
// more, and it is fetched when half of the room is free, so that under load one claim serves many messages.
func (e *engine) claimFor(ctx context.Context, lanes []*lane, l *lane, onlyHungry, woken bool) (int, error) {
	if l.hopeful.Swap(false) {
		l.hungry = true
	}
	if !l.able() {
		l.hungry = false
		return 0, nil
	}
	r, room := l.relay(), l.room()
	free := l.free()
	if free <= 0 {
		l.hungry = true
		l.uncrowd()
		return 0, nil
	}
	if onlyHungry && (!l.hungry || free < room/2) {
		return 0, nil
	}
	routes, ok, err := e.routesOf(ctx, lanes, l)
	if err != nil || !ok {
		l.hungry = false
		return 0, err
	}
	limit := e.share(lanes, l, free)
	if limit <= 0 {
		l.hungry, e.outOfTurn = true, true // the others come first
		return 0, nil
	}
	expect := l.expected(woken && free == room, routes)
	staged := r.Fence == FenceAll
	asked := time.Now()
	limited, cancel := e.patient(ctx)
	defer cancel()
	claimed, err := e.cfg.Queue.Claim(limited, queue.ClaimRequest{
		Owner: e.cfg.Name, Routes: routes, Limit: limit, InlineBytes: inlineBytes, Lease: e.cfg.Lease, Relay: l.name, Rate: r.Rate,
		Fenced: staged, Expect: expect,
	})
	took := time.Since(asked)
	jobs := make([]*job, len(claimed))
	deliveries := 0
	for i, c := range claimed { // also beside an error: what was claimed is ours
		deliveries += len(c.Deliveries)
		jobs[i] = &job{claimed: c, claimedAt: asked, staged: staged}
		e.held.add(jobs[i])
		l.last = queue.Due{Route: c.Route, Priority: c.Priority}
	}
	l.claimedSome(len(claimed))
	l.hungry = deliveries >= limit
	if len(claimed) > 0 {
		notify(ctx, e, "Observer.Claimed", e.cfg.Observer.Claimed,
			ClaimedEvent{Relay: l.name, Messages: len(claimed), Deliveries: deliveries, Took: took})
	}
	for _, j := range jobs {
		e.laneOf(lanes, l, &j.claimed).put(j)
	}
	return len(claimed), err
}

// expected is where a lane thinks that something is due: where its last message came from, when it has nothing to do and the
// queue has changed. Every other time that is nowhere, so that what is urgent elsewhere does not wait for long.
func (l *lane) expected(woken bool, routes []string) queue.Due {
	l.guessed = woken && !l.guessed && l.last.Route != "" && (len(routes) == 0 || slices.Contains(routes, l.last.Route))
	if !l.guessed {
		return queue.Due{}
	}
	return l.last
}

// stopPatience is how long a claim may go on when the dispatcher is to stop.
const stopPatience = 5 * time.Second

// patient is the context of a claim. It ends after a lease, when what it claims would have lapsed. It does not end with ctx, but
// soon after: a claim that is broken off may have taken effect, and what nobody hears of cannot be handed back.
func (e *engine) patient(ctx context.Context) (limited context.Context, cancel func()) {
	limited, end := context.WithTimeout(context.WithoutCancel(ctx), e.cfg.Lease)
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(min(stopPatience, e.cfg.Grace))
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

// crowdDelay is how long messages wait that crowded a lane because their domain had as many as it may.
const (
	crowdDelay = 5 * time.Second
	crowdEvery = time.Second // how often that happens at the most
)

// uncrowd puts back what fills the lane and may not be sent yet because of its recipients' domain.
func (l *lane) uncrowd() {
	perDomain := l.relay().PerDomain
	if perDomain <= 0 || l.drain || time.Since(l.parted) < crowdEvery {
		return
	}
	l.parted = time.Now()
	for _, j := range l.jobs.crowd(perDomain) {
		l.settler.put(all(j, queue.Settlement{Outcome: queue.Deferred, Uncounted: true, Delay: crowdDelay})...)
	}
}

// laneOf is the lane for a message that l claimed. What a relay left in doubt goes to the same one again: that one may
// recognise the copy, any other would make it certain. What l itself could not send a moment ago goes to another that can,
// if there is one whose allowance need not be asked.
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

// untilDue is how long the claimer may sleep: until the next poll, or until something becomes due before that. What is due
// and could not be claimed, several times by now, is looked at less and less often.
func (e *engine) untilDue(ctx context.Context, barren int) time.Duration {
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
		soonest := shortestWait << min(max(barren-1, 0), 6)
		if r.Rate.PerSecond > 0 { // the allowance may be what is lacking
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
