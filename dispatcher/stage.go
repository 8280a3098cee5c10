package dispatcher

import (
	"context"
	"fmt"

	"github.com/outboxmail/outbox"
)

// stageBatch is how many messages share one statement.
const stageBatch = 200

// stager records that messages pass the point of no return. While one statement runs, the requests of other senders gather
// and share the next: alone a message waits for nobody.
type stager struct {
	*engine
	requests chan *stageRequest
}

type stageRequest struct {
	refs []outbox.Ref
	done chan error // buffered: the sender may have given up
}

func newStager(e *engine) *stager {
	return &stager{engine: e, requests: make(chan *stageRequest, stageBatch)}
}

// commit asks for the stage of a job and returns nil once all of its deliveries are marked. On an error none of them may
// be sent.
func (s *stager) commit(ctx context.Context, j *job) error {
	r := &stageRequest{refs: j.refs(), done: make(chan error, 1)}
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
		batch := gather(first, s.requests, stageBatch)
		var refs []outbox.Ref
		for _, r := range batch {
			refs = append(refs, r.refs...)
		}
		limited, cancel := context.WithTimeout(ctx, s.cfg.Lease)
		lost, err := s.cfg.Queue.CommitStage(limited, refs)
		cancel()
		gone := make(map[outbox.Ref]bool, len(lost))
		for _, ref := range lost {
			gone[ref] = true
		}
		for _, r := range batch {
			r.done <- verdict(r, gone, err)
		}
	}
}

func verdict(r *stageRequest, lost map[outbox.Ref]bool, err error) error {
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

// gather returns first and what else already waits, up to limit.
func gather[T any](first T, more <-chan T, limit int) []T {
	batch := []T{first}
	for len(batch) < limit {
		select {
		case next, ok := <-more:
			if !ok {
				return batch
			}
			batch = append(batch, next)
		default:
			return batch
		}
	}
	return batch
}
