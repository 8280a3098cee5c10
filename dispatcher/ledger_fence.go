package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outboxmail/outbox/queue"
)

const (
	// fenceBatch is the largest number of messages in one call.
	fenceBatch = 200
	// fenceWait is the longest time for which the first of them waits for others.
	fenceWait = time.Millisecond
)

// fenceRequest asks to fence one message.
type fenceRequest struct {
	refs  []queue.Ref
	relay string
	done  chan error // has a buffer, because the sender may have given up
}

// fence records that a relay may have the job from now on. It returns nil once the queue has recorded that. After an error the job
// must not be sent.
func (g *ledger) fence(ctx context.Context, j *job, relay string) error {
	r := &fenceRequest{refs: j.refs(), relay: relay, done: make(chan error, 1)}
	select {
	case g.requests <- r:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errFence, ctx.Err())
	case <-g.fenceClosed:
		return fmt.Errorf("%w: the dispatcher has stopped", errFence)
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errFence, ctx.Err())
	case <-g.fenceClosed:
		return fmt.Errorf("%w: the dispatcher has stopped", errFence)
	}
}

// fenceLoop serves the requests until fenceClosed is closed. While one call runs, the requests of other senders gather for the next.
// If many messages are being sent, it waits up to fenceWait for half of them: a call for ten costs little more than a call for one.
// A message that is alone does not wait.
func (g *ledger) fenceLoop(ctx context.Context) {
	for {
		select {
		case first := <-g.requests:
			batch := gather(first, g.requests, fenceBatch, fenceWait, func() int { return int(g.sending.Load() / 2) })
			limited, cancel := context.WithTimeout(ctx, g.lease) // a later answer would be of no use
			g.fenceAll(limited, batch)
			cancel()
		case <-g.fenceClosed:
			return
		}
	}
}

// fenceAll fences a batch and answers its requests.
func (g *ledger) fenceAll(ctx context.Context, batch []*fenceRequest) {
	limit := g.lease / callLimit
	failed, _, err := inParts(batch, func(part []*fenceRequest) error {
		limited, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		limit = min(limit, max(g.lease/partLimit, shortestLimit))
		not, err := g.fenceCall(limited, part)
		if err != nil {
			return err
		}
		for _, r := range part {
			r.done <- answer(r, not)
		}
		return nil
	})
	for _, r := range failed {
		r.done <- fmt.Errorf("%w: %w", errFence, err)
	}
}

// fenceCall fences a batch by one call. It returns the refs whose lease is lost as true, and those that are busy as false.
func (g *ledger) fenceCall(ctx context.Context, batch []*fenceRequest) (map[queue.Ref]bool, error) {
	var list []queue.FencedRef
	for _, r := range batch {
		for _, ref := range r.refs {
			list = append(list, queue.FencedRef{Ref: ref, Relay: r.relay})
		}
	}
	refs, err := g.queue.Fence(ctx, list)
	not := setOf(refs)
	if busy, ok := errors.AsType[*queue.BusyError](err); ok {
		for _, ref := range busy.Refs {
			not[ref] = false
		}
		return not, nil
	}
	return not, err
}

// answer returns the result of one request after a call. not holds the refs that were not fenced, true for a lost lease.
func answer(r *fenceRequest, not map[queue.Ref]bool) error {
	for _, ref := range r.refs {
		if not[ref] {
			return errLeaseLost
		}
	}
	for _, ref := range r.refs {
		if _, busy := not[ref]; busy {
			return fmt.Errorf("%w: another transaction has locked the delivery", errFence)
		}
	}
	return nil
}
