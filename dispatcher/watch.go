package dispatcher

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// watch lets the queue's own change feed wake the dispatcher, until ctx ends. A feed that breaks is taken up again; the poll
// goes on meanwhile, so nothing is missed.
func (e *engine) watch(ctx context.Context) {
	policy := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(time.Second), backoff.WithMaxInterval(time.Minute), backoff.WithMaxElapsedTime(0))
	for {
		began := time.Now()
		err := errors.New("it panicked")
		e.safely(ctx, "Watch", func() { err = e.cfg.Watch(ctx, e.Wake) })
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > time.Minute {
			policy.Reset()
		}
		wait := policy.NextBackOff()
		e.log.WarnContext(ctx, "the change feed of the queue broke; polling goes on", "error", err, "again_in", wait)
		e.Wake() // whatever changed while it broke
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
