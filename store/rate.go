package store

import (
	"context"
	"fmt"
	"math"

	"github.com/outboxmail/outbox/queue"
)

// claimAllowed claims what the shared allowance of the relay grants. The allowance is a token bucket in outbox_relays. Its row
// stays locked from the refill until the claim has drawn from it, so that dispatchers keep the rate together. A claim draws one
// token for each leased delivery. A message with many recipients may overdraw the allowance.
func (s *Store) claimAllowed(ctx context.Context, req queue.ClaimRequest, due []dueRange) (got round, err error) {
	burst := float64(req.Rate.Burst)
	if burst == 0 {
		burst = max(1, req.Rate.PerSecond)
	}
	args := []any{clean(req.Relay), req.Rate.PerSecond, burst}
	// A look without a lock, so that a dispatcher that waits for its allowance writes nothing.
	held, err := collect[float64](ctx, s.db, s.queries.get("allowance"), args...)
	if err != nil || len(held) > 0 && held[0] < 1 {
		return round{}, err
	}
	limit := req.Limit
	err = s.atomically(ctx, func(c conn) error {
		got = round{}
		held, err := collect[float64](ctx, c, s.queries.get("refill"), args...)
		if err != nil {
			return err
		}
		granted := math.Floor(held[0])
		if granted < 1 {
			return nil
		}
		req.Limit = int(min(float64(limit), granted))
		if got, err = s.claimDue(ctx, c, req, due); err != nil {
			return err
		}
		drawn := 0
		for _, m := range got.list {
			drawn += len(m.Deliveries)
		}
		n, err := affected(ctx, c, s.queries.get("draw"), args[0], drawn)
		if err == nil && n != 1 {
			err = fmt.Errorf("the allowance of relay %s is gone", req.Relay)
		}
		return err
	})
	if err != nil {
		return round{}, err
	}
	return got, nil
}
