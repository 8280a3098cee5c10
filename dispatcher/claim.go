package dispatcher

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/outboxmail/outbox"
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
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	failing := false
	for first := 0; ; first++ {
		onlyHungry := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-e.wake:
		case <-timer.C:
		case <-e.kick:
			onlyHungry = true
			if e.drain && e.held.empty() {
				onlyHungry = false // the last outcome is recorded: look whether anything is left
			}
		}
		idle := e.held.empty()
		got, err := e.claimAll(ctx, first, onlyHungry)
		switch {
		case err == nil && failing:
			failing = false
			e.log.InfoContext(ctx, "the queue answers again")
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil && e.drain:
			return err
		case err != nil && !failing:
			failing = true
			e.log.ErrorContext(ctx, "cannot claim; trying again at every poll", "error", err)
		}
		if e.drain && idle && got == 0 && !onlyHungry && err == nil {
			more, err := e.allowanceLacks(ctx)
			if err != nil || !more {
				return err
			}
		}
		if err == nil && onlyHungry {
			continue // the timer still runs
		}
		wait := e.cfg.Poll
		if err == nil {
			wait = e.untilDue(ctx)
		}
		timer.Reset(wait)
	}
}

// allowanceLacks says whether a lane with a rate has something due that it may only send later.
func (e *engine) allowanceLacks(ctx context.Context) (bool, error) {
	for _, l := range e.lanes {
		if l.relay.Rate.PerSecond <= 0 {
			continue
		}
		// What is past its deadline is due as well, and nobody would claim it.
		if _, err := e.cfg.Queue.Reap(ctx); err != nil {
			return false, cmp.Or(ctx.Err(), err)
		}
		due, err := e.cfg.Queue.Due(ctx, l.relay.Routes)
		if err != nil {
			return false, cmp.Or(ctx.Err(), err)
		}
		if slices.ContainsFunc(due, func(d outbox.Due) bool { return !d.Paused && d.In <= 0 }) {
			return true, nil
		}
	}
	return false, nil
}

// claimAll gives each lane a claim, beginning with another one each time, and returns how many messages were claimed.
func (e *engine) claimAll(ctx context.Context, first int, onlyHungry bool) (int, error) {
	total := 0
	for i := range e.lanes {
		l := e.lanes[(first+i)%len(e.lanes)]
		n, err := e.claimFor(ctx, l, onlyHungry)
		if err != nil {
			return total, err
		}
		total += n
	}
	return total, nil
}

// claimFor claims as much as the lane has room for. A lane whose last claim was filled is hungry: there is more, and it is
// fetched when half of the room is free, so that under load one claim serves many messages.
func (e *engine) claimFor(ctx context.Context, l *lane, onlyHungry bool) (int, error) {
	free := l.free()
	if free <= 0 {
		l.hungry = true
		return 0, nil
	}
	if onlyHungry && (!l.hungry || free < l.room/2) {
		return 0, nil
	}
	asked := time.Now()
	claimed, err := e.cfg.Queue.Claim(ctx, outbox.ClaimRequest{
		Owner: e.cfg.Name, Routes: l.relay.Routes, Limit: free, InlineBytes: inlineBytes, Lease: e.cfg.Lease,
		Relay: l.relay.Name, Rate: l.relay.Rate,
	})
	deliveries := 0
	for _, c := range claimed { // also beside an error: what was claimed is ours
		deliveries += len(c.Deliveries)
		j := &job{claimed: c, claimedAt: asked}
		e.held.add(j)
		if !e.laneOf(l, &j.claimed).put(ctx, j, e.drain) {
			e.settler.put(all(j, outbox.Settlement{Verb: outbox.VerbDefer, Uncounted: true, Delay: e.cfg.Poll})...)
		}
	}
	l.hungry = deliveries >= free
	return len(claimed), err
}

// laneOf is the lane for a message that l claimed. What a relay left in doubt goes to the same one again: that one may
// recognise the copy, any other would make it certain.
func (e *engine) laneOf(l *lane, c *outbox.Claimed) *lane {
	for _, d := range c.Deliveries {
		if d.Class != string(smtpx.ClassAmbiguous) {
			continue
		}
		for _, other := range e.lanes {
			if other.relay.Name == d.Relay {
				return other
			}
		}
	}
	return l
}

// untilDue is how long the claimer may sleep: until the next poll, or until something becomes due before that.
func (e *engine) untilDue(ctx context.Context) time.Duration {
	wait := e.cfg.Poll
	for _, l := range e.lanes {
		due, err := e.cfg.Queue.Due(ctx, l.relay.Routes)
		if err != nil {
			return wait // the next claim says what is wrong
		}
		soonest := shortestWait
		if l.relay.Rate.PerSecond > 0 { // the allowance may be what is lacking
			soonest = max(soonest, time.Duration(float64(time.Second)/l.relay.Rate.PerSecond))
		}
		for _, d := range due {
			if !d.Paused {
				wait = min(wait, max(d.In, soonest))
			}
		}
	}
	return wait
}
