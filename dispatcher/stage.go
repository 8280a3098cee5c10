package dispatcher

import (
	"context"
	"fmt"
	"time"

	"github.com/outboxmail/outbox/queue"
)

const (
	// stageBatch is how many messages share one statement.
	stageBatch = 200
	// stagePatience is how long the first of them waits for others.
	stagePatience = time.Millisecond
)

// stager records that messages pass the point of no return. While one statement runs, the requests of other senders gather
// and share the next: alone a message waits for nobody.
type stager struct {
	*engine
	requests chan *stageRequest
}

type stageRequest struct {
	refs  []queue.Ref
	relay string
	done  chan error // buffered: the sender may have given up
}

func newStager(e *engine) *stager {
	return &stager{engine: e, requests: make(chan *stageRequest, stageBatch)}
}

// commit asks for the stage of a job that is about to go through a relay, and returns nil once all of its deliveries are
// marked. On an error none of them may be sent.
func (s *stager) commit(ctx context.Context, j *job, relay string) error {
	r := &stageRequest{refs: j.refs(), relay: relay, done: make(chan error, 1)}
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errStage, ctx.Err())
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errStage, ctx.Err())
	}
}

// close ends run once the requests are served. Nobody may ask any more.
func (s *stager) close() { close(s.requests) }

// run serves the requests. A statement has as long as a lease: after that its answer would not help.
func (s *stager) run(ctx context.Context) {
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

// gatherLonger gathers requests; where many messages are under way it waits a moment for half of them, because one
// statement for ten costs little more than one for one. Alone, a message waits for nobody.
func (s *stager) gatherLonger(first *stageRequest) []*stageRequest {
	return gather(first, s.requests, stageBatch, stagePatience, func() int { return int(s.sending.Load() / 2) })
}

func answer(r *stageRequest, lost map[queue.Ref]bool, err error) error {
	if err != nil {
		return fmt.Errorf("%w: %w", errStage, err)
	}
	for _, ref := range r.refs {
		if lost[ref] {
			return errLeaseLost
		}
	}
	return nil
}

// gather makes a batch of what already waits, up to limit, and then of what comes within patience, while the batch is smaller
// than expected says.
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
