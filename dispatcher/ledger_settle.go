package dispatcher

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

const (
	// settleBatch is the largest number of outcomes in one call. While more than that are set aside, no others are recorded.
	settleBatch = 500
	// settleWait is the longest time for which the first outcome of a batch waits for others. settleFor is the number of outcomes to
	// wait for, for each message that is being sent.
	settleWait = 20 * time.Millisecond
	settleFor  = 4
	// settleAlone is the number of messages being sent up to which no outcome waits.
	settleAlone = 3
	// settleTries is the number of calls for which a lease is long enough. A call that hangs is broken off after that part of it. The
	// limit doubles up to half a lease while nothing works, because the queue may only be slow.
	settleTries = 10
	// firstRetry and lastRetry are the shortest and the longest time between two tries to record outcomes.
	firstRetry, lastRetry = 50 * time.Millisecond, time.Second
	// asideEvery is the time between two tries to record outcomes that were set aside.
	asideEvery = 2 * time.Second
	// lateTries is the number of lease parts in which outcomes that become known after the deadline of a stop may be recorded.
	lateTries = 6
)

// record is an outcome that waits to be recorded.
type record struct {
	queue.Settlement
	known  time.Time // when the outcome became known
	tried  bool      // an earlier call failed and may have taken effect
	failed int       // how many rounds it failed in
	aside  bool      // it is set aside
}

// settleState is the part of a ledger that settles. The ledger's mutex guards it.
type settleState struct {
	limit    time.Duration // of one call
	since    time.Time     // when recording began to fail, zero while it works
	problem  error         // why it fails
	deadline time.Time     // of a stop: after it nothing is tried again
	late     time.Duration // left for outcomes that become known after the deadline
}

// put hands over outcomes. It blocks while the queue is slower than the relays, and so slows the lanes.
func (g *ledger) put(list ...queue.Settlement) {
	for _, s := range list {
		g.outcomes <- &record{Settlement: s, known: time.Now()}
	}
}

// settleLoop records outcomes until the channel is closed. ctx ends at the deadline of a stop. While one call runs, further outcomes
// gather for the next. If more than settleAlone messages are being sent, it waits up to settleWait for more.
func (g *ledger) settleLoop(ctx context.Context) {
	defer close(g.settleEnded)
	for first := range g.outcomes {
		batch := gather(first, g.outcomes, settleBatch, settleWait, func() int {
			if n := int(g.underway.Load()); n > settleAlone {
				return settleFor * n
			}
			return 0
		})
		g.settleAll(ctx, batch)
		g.waitForAside(ctx)
	}
}

// settleAll records a batch. While that fails, it tries again and takes in further outcomes, until the deadline of a stop.
func (g *ledger) settleAll(ctx context.Context, batch []*record) {
	policy := backoff.NewExponentialBackOff(backoff.WithInitialInterval(firstRetry), backoff.WithMaxInterval(lastRetry),
		backoff.WithMaxElapsedTime(0))
	for {
		left, err := g.settleRound(ctx, batch)
		if len(left) == 0 {
			g.settleWorks(ctx)
			return
		}
		g.settleFails(ctx, len(left), err)
		timer := time.NewTimer(policy.NextBackOff())
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			g.settleLate(ctx, left)
			return
		}
		batch = addWaiting(left, g.outcomes, settleBatch)
	}
}

// settleRound tries to record a batch and returns what is left. It sets aside outcomes that fail although others can be recorded.
func (g *ledger) settleRound(ctx context.Context, batch []*record) ([]*record, error) {
	if ctx.Err() != nil {
		return batch, ctx.Err()
	}
	failed, worked, err := inParts(batch, func(part []*record) error { return g.settleCall(ctx, part) })
	if !worked && errors.Is(err, context.DeadlineExceeded) {
		g.mu.Lock()
		g.settle.limit = min(2*g.settle.limit, g.lease/2)
		g.mu.Unlock()
	}
	for _, r := range failed {
		r.failed++
	}
	if !worked && len(failed) > 0 { // perhaps each of them has a fault of its own
		i := rand.IntN(len(failed)) //nolint:gosec // no secret: another one each time
		if worked = g.settleWithout(ctx, failed[i], err); worked {
			failed, err = halves(slices.Delete(failed, i, i+1), func(part []*record) error { return g.settleCall(ctx, part) })
		}
	}
	var left []*record
	for _, r := range failed {
		switch {
		case worked && g.settleWithout(ctx, r, err):
		case worked:
			g.setAside(ctx, r, err)
		default:
			left = append(left, r)
		}
	}
	return left, err
}

// settleCall records outcomes by one call, all of them or none. It sets aside those whose rows are locked.
func (g *ledger) settleCall(ctx context.Context, part []*record) error {
	g.mu.Lock()
	limit := g.settle.limit
	g.mu.Unlock()
	list := make([]queue.Settlement, len(part))
	for i, r := range part {
		list[i] = r.Settlement
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	lost, err := g.queue.Settle(limited, g.owner, list)
	var busy map[queue.Ref]bool
	if passed, ok := errors.AsType[*queue.BusyError](err); ok {
		busy, err = setOf(passed.Refs), nil
	}
	if err != nil {
		if _, invalid := errors.AsType[*outbox.InvalidError](err); !invalid { // which is refused before anything is written
			for _, r := range part {
				r.tried = true
			}
		}
		return err
	}
	done := part
	if len(busy) > 0 {
		done = nil
		for _, r := range part {
			if busy[r.Ref] {
				g.setAside(ctx, r, errBusy)
			} else {
				done = append(done, r)
			}
		}
	}
	g.settled(ctx, done, setOf(lost))
	return nil
}

// errBusy says that the row of a delivery is locked.
var errBusy = errors.New("another transaction has locked the delivery")

// settled removes recorded outcomes from the ledger. lost holds those for which nothing was changed.
func (g *ledger) settled(ctx context.Context, done []*record, lost map[queue.Ref]bool) {
	var gone []queue.Ref
	now := time.Now()
	g.mu.Lock()
	g.settle.limit = g.lease / settleTries
	for _, r := range done {
		g.drop(r.Ref)
		if r.aside {
			r.aside = false
			g.aside = slices.DeleteFunc(g.aside, func(other *record) bool { return other == r })
			signal(g.asideShrank)
		}
		isLost := lost[r.Ref] && !r.tried // an earlier call that failed may have recorded it
		if isLost {
			gone = append(gone, r.Ref)
		}
		count(&g.report, r.Outcome, isLost)
		if r.Outcome == queue.Deferred || r.Outcome == queue.Recycled {
			if due := now.Add(r.Delay); g.soonest.IsZero() || due.Before(g.soonest) {
				g.soonest = due
			}
		}
	}
	g.mu.Unlock()
	if len(gone) > 0 {
		g.log.WarnContext(ctx, "leases were lost before their outcome was recorded", "deliveries", len(gone))
		g.lost(ctx, gone)
	}
	g.changed()
}

// settleWithout records an outcome that fails alone without the parts that the queue may not be able to store, and says whether that
// worked. It does so only if the fault is the outcome's: the queue refuses it as invalid, or it can write the claim and has failed twice.
func (g *ledger) settleWithout(ctx context.Context, r *record, err error) bool {
	if _, invalid := errors.AsType[*outbox.InvalidError](err); !invalid {
		if r.failed < 2 || errors.Is(err, context.DeadlineExceeded) {
			return false
		}
		if busy, err := g.renew(ctx, []string{r.Ref.Token}, g.lease/callLimit); err != nil || len(busy) > 0 {
			return false
		}
		if g.settleCall(ctx, []*record{r}) == nil {
			return true
		}
	}
	full := r.Settlement
	for _, part := range []struct {
		name string
		drop func(s *queue.Settlement)
	}{
		{"notice", func(s *queue.Settlement) { s.Notice = nil }},
		{"words of the relay", func(s *queue.Settlement) { s.Evidence.Reply, s.Evidence.Enhanced, s.Evidence.ProviderID = "", "", "" }},
		{"evidence", func(s *queue.Settlement) { s.Evidence, s.Suppress = queue.Evidence{}, false }},
	} {
		before := r.Settlement
		if part.drop(&r.Settlement); r.Settlement == before {
			continue
		}
		if g.settleCall(ctx, []*record{r}) == nil {
			g.log.ErrorContext(ctx, "an outcome cannot be stored in full; recorded without a part", "id", r.Ref.ID, "seq", r.Ref.Seq,
				"without", part.name, "error", err)
			return true
		}
	}
	r.Settlement = full
	return false
}

// setAside keeps an outcome apart, so that it does not hold up others.
func (g *ledger) setAside(ctx context.Context, r *record, err error) {
	if r.aside {
		return
	}
	g.log.ErrorContext(ctx, "cannot record an outcome; will try again", "id", r.Ref.ID, "seq", r.Ref.Seq, "outcome", r.Outcome, "error", err)
	g.mu.Lock()
	r.aside = true
	g.aside = append(g.aside, r) // from here on it belongs to who records what is set aside
	g.mu.Unlock()
	g.changed()
}

// waitForAside waits while too many outcomes are set aside, so that memory stays bounded.
func (g *ledger) waitForAside(ctx context.Context) {
	for {
		g.mu.Lock()
		n := len(g.aside)
		g.mu.Unlock()
		if n < settleBatch {
			return
		}
		select {
		case <-g.asideShrank:
		case <-ctx.Done():
			return
		}
	}
}

// asideLoop tries again and again to record the outcomes that were set aside. It ends when the settler has ended and nothing is
// left, or with ctx.
func (g *ledger) asideLoop(ctx context.Context) {
	tick := time.NewTicker(min(asideEvery, g.lease/settleTries))
	defer tick.Stop()
	ended := g.settleEnded
	for {
		select {
		case <-tick.C:
		case <-ended:
			ended = nil
		case <-ctx.Done():
			<-g.settleEnded
			g.mu.Lock()
			left := g.aside
			g.aside = nil
			g.mu.Unlock()
			g.abandon(ctx, left)
			return
		}
		g.mu.Lock()
		list := slices.Clone(g.aside)
		g.mu.Unlock()
		for _, r := range list {
			if ctx.Err() != nil {
				break
			}
			if err := g.settleCall(ctx, []*record{r}); err != nil {
				r.failed++
				g.settleWithout(ctx, r, err)
			}
		}
		g.mu.Lock()
		empty := len(g.aside) == 0
		g.mu.Unlock()
		if ended == nil && empty {
			return
		}
	}
}

// settleFails notes that outcomes cannot be recorded, and logs it once.
func (g *ledger) settleFails(ctx context.Context, n int, err error) {
	g.mu.Lock()
	first := g.settle.since.IsZero()
	if first {
		g.settle.since = time.Now()
	}
	if ctx.Err() == nil {
		g.settle.problem = err
	}
	g.mu.Unlock()
	if first && ctx.Err() == nil {
		g.log.ErrorContext(ctx, "cannot record outcomes; will try again", "outcomes", n, "error", err)
	}
}

// settleWorks notes that outcomes can be recorded again.
func (g *ledger) settleWorks(ctx context.Context) {
	g.mu.Lock()
	since := g.settle.since
	g.settle.since, g.settle.problem = time.Time{}, nil
	g.mu.Unlock()
	if !since.IsZero() {
		g.log.InfoContext(ctx, "outcomes can be recorded again", "after", time.Since(since).Round(time.Millisecond))
	}
}

// behind returns for how long no outcome could be recorded, and why.
func (g *ledger) behind() (time.Duration, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.settle.since.IsZero() {
		return 0, nil
	}
	return max(1, time.Since(g.settle.since)), g.settle.problem
}

// setDeadline ends the repetition of calls. What became known before it is dropped if it is not recorded now. What becomes known
// later gets a single try, for a part of a lease altogether.
func (g *ledger) setDeadline(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.settle.deadline, g.settle.late = now, g.lease/lateTries
}

// settleLate records outcomes after the deadline of a stop, as far as that is allowed, and abandons the rest.
func (g *ledger) settleLate(ctx context.Context, list []*record) {
	g.mu.Lock()
	deadline, left := g.settle.deadline, g.settle.late
	g.mu.Unlock()
	var late, dropped []*record
	for _, r := range list {
		if left > 0 && r.known.After(deadline) {
			late = append(late, r)
		} else {
			dropped = append(dropped, r)
		}
	}
	if len(late) > 0 {
		began := time.Now()
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), left)
		err := g.settleCall(limited, late)
		cancel()
		g.mu.Lock()
		g.settle.late -= time.Since(began)
		g.mu.Unlock()
		if err != nil {
			dropped = append(dropped, late...)
		}
	}
	g.abandon(ctx, dropped)
}

// abandon drops outcomes that could not be recorded before the deadline of a stop.
func (g *ledger) abandon(ctx context.Context, list []*record) {
	if len(list) == 0 {
		return
	}
	g.mu.Lock()
	err := g.settle.problem
	for _, r := range list {
		g.drop(r.Ref)
		count(&g.report, r.Outcome, true)
	}
	g.mu.Unlock()
	g.log.ErrorContext(ctx, "outcomes not recorded before the end of the stop; their deliveries become uncertain or are sent again",
		"outcomes", len(list), "error", err)
}

// count adds an outcome to a report.
func count(r *Report, o queue.Outcome, lost bool) {
	if lost {
		r.Lost++
		return
	}
	switch o {
	case queue.Sent:
		r.Sent++
	case queue.Deferred:
		r.Deferred++
	case queue.Recycled:
		r.Recycled++
	case queue.Failed:
		r.Failed++
	case queue.Uncertain:
		r.Uncertain++
	case queue.Held:
		r.Held++
	case queue.Expired:
		r.Expired++
	}
}

// fault returns what cannot be recorded. ok is false if there is nothing.
func (g *ledger) fault() (f Fault, ok bool) {
	d, err := g.behind()
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case d > 0:
		f = Fault{Kind: FaultUnrecorded, Since: time.Now().Add(-d)}
		if err != nil {
			f.Error = oneLine(err.Error())
		}
	case len(g.aside) > 0:
		f = Fault{Kind: FaultUnrecorded, Count: len(g.aside), Since: g.aside[0].known}
	}
	return f, f.Kind != ""
}
