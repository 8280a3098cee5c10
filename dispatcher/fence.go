package dispatcher

import (
	"context"
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

// fencer fences messages in batches. While one call runs, the requests of other senders gather for the next. A message that is
// alone does not wait.
type fencer struct {
	*engine
	requests chan *fenceRequest
}

type fenceRequest struct {
	refs  []queue.Ref
	relay string
	done  chan error // has a buffer, because the sender may have given up
}

func newFencer(e *engine) *fencer {
	return &fencer{engine: e, requests: make(chan *fenceRequest, fenceBatch)}
}

// commit fences a job and returns nil once the queue has recorded that. After an error the job must not be sent.
func (s *fencer) commit(ctx context.Context, j *job, relay string) error {
	r := &fenceRequest{refs: j.refs(), relay: relay, done: make(chan error, 1)}
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errFence, ctx.Err())
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errFence, ctx.Err())
	}
}

// close makes run return once the requests are served. Nobody may call commit any more.
func (s *fencer) close() { close(s.requests) }

// run serves the requests until close. A call may take as long as a lease; a later answer would be of no use.
func (s *fencer) run(ctx context.Context) {
	for first := range s.requests {
		batch := s.gatherLonger(first)
		var list []queue.FencedRef
		for _, r := range batch {
			for _, ref := range r.refs {
				list = append(list, queue.FencedRef{Ref: ref, Relay: r.relay})
			}
		}
		limited, cancel := context.WithTimeout(ctx, s.cfg.Lease)
		lost, err := s.cfg.Queue.Fence(limited, list)
		cancel()
		gone := make(map[queue.Ref]bool, len(lost))
		for _, ref := range lost {
			gone[ref] = true
		}
		for _, r := range batch {
			r.done <- answer(r, gone, err)
		}
	}
}

// gatherLonger makes a batch. If many messages are being sent, it waits up to fenceWait for half of them: a call for ten costs
// little more than a call for one.
func (s *fencer) gatherLonger(first *fenceRequest) []*fenceRequest {
	return gather(first, s.requests, fenceBatch, fenceWait, func() int { return int(s.sending.Load() / 2) })
}

// answer returns the result of one request in a batch.
func answer(r *fenceRequest, lost map[queue.Ref]bool, err error) error {
	if err != nil {
		return fmt.Errorf("%w: %w", errFence, err)
	}
	for _, ref := range r.refs {
		if lost[ref] {
			return errLeaseLost
		}
	}
	return nil
}

// gather makes a batch of what already waits, up to limit. While the batch is smaller than expected, it also waits up to patience for
// more.
func gather[T any](first T, more <-chan T, limit int, patience time.Duration, expected func() int) []T {
	batch := []T{first}
	var timer *time.Timer
	for len(batch) < limit {
		select {
		case next, ok := <-more:
			if !ok {
				return batch
			}
			batch = append(batch, next)
			continue
		default:
		}
		if len(batch) >= expected() {
			return batch
		}
		if timer == nil {
			timer = time.NewTimer(patience)
			defer timer.Stop()
		}
		select {
		case next, ok := <-more:
			if !ok {
				return batch
			}
			batch = append(batch, next)
		case <-timer.C:
			return batch
		}
	}
	return batch
}
