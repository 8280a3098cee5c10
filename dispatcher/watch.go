package dispatcher

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/outboxmail/outbox/queue"
)

// watch calls Config.Watch until ctx ends, and calls it again after an error. Polling goes on meanwhile, so nothing is missed.
func (e *engine) watch(ctx context.Context) {
	policy := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(time.Second), backoff.WithMaxInterval(time.Minute), backoff.WithMaxElapsedTime(0))
	for {
		began := time.Now()
		err := errors.New("the function Watch panicked")
		e.safely(ctx, "Watch", func() { err = e.cfg.Watch(ctx, e.Wake) })
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > time.Minute {
			policy.Reset()
		}
		wait := policy.NextBackOff()
		if !errors.Is(err, queue.ErrChanged) { // of which the inspection tells
			e.log.WarnContext(ctx, "cannot watch the queue; polling instead", "error", err, "again_in", wait)
		}
		e.Wake() // the queue may have changed while the watch ended
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
