package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store"
)

// After HoldRestored nothing of a copy goes out by itself, in whatever state the copy had it, and the former holder of a lease changes
// nothing. Finished deliveries stay as they are. Everything can be released.
func TestHoldRestored(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store, db *sqlx.DB) {
		for i := range 5 {
			enqueueOne(t, db, fmt.Sprint("k", i))
		}
		claim := func(n int) []queue.Claimed {
			t.Helper()
			list, err := s.Claim(t.Context(), queue.ClaimRequest{Owner: "d", Limit: n, Lease: time.Minute, Fenced: true})
			if err != nil {
				t.Fatal(err)
			}
			return list
		}
		settle := func(c queue.Claimed, outcome queue.Outcome) []queue.Ref {
			t.Helper()
			lost, err := s.Settle(t.Context(), "d", []queue.Settlement{{Ref: c.Ref(0), Outcome: outcome}})
			if err != nil {
				t.Fatal(err)
			}
			return lost
		}
		claimed := claim(4)
		if len(claimed) != 4 {
			t.Fatalf("%d claimed", len(claimed))
		}
		settle(claimed[0], queue.Sent)
		settle(claimed[1], queue.Uncertain)
		if lost, err := s.Fence(t.Context(), []queue.FencedRef{{Ref: claimed[2].Ref(0), Relay: "main"}}); err != nil || len(lost) > 0 {
			t.Fatal(lost, err)
		}
		// Now one is sent, one uncertain, one past the fence, one claimed, and one queued.
		n, err := s.HoldRestored(store.WithReason(t.Context(), "it's Monday"), store.Filter{})
		if err != nil || n != 4 {
			t.Fatalf("%d held: %v", n, err)
		}
		var reason, verb string
		err = db.QueryRowContext(t.Context(), "SELECT reason, verb FROM outbox_actions").Scan(&reason, &verb)
		if err != nil || reason != "it's Monday" || verb != "hold" {
			t.Errorf("recorded is %q %q: %v", verb, reason, err)
		}
		if lost, err := s.Fence(t.Context(), []queue.FencedRef{{Ref: claimed[3].Ref(0), Relay: "main"}}); err != nil || len(lost) != 1 {
			t.Errorf("what is held passes its fence: lost %v, error %v", lost, err)
		}
		for _, c := range claimed[2:] {
			if lost := settle(c, queue.Sent); len(lost) != 1 {
				t.Errorf("a holder of the original settles %s", c.ID)
			}
		}
		if report, err := s.Reap(t.Context()); err != nil || report.Requeued+report.Resent+report.Uncertain > 0 {
			t.Errorf("the reaper takes %+v: %v", report, err)
		}
		if list := claim(10); len(list) != 0 {
			t.Errorf("%d claimed of a restored copy", len(list))
		}
		states := make(map[outbox.State]int)
		doubts := 0
		for d, err := range s.All(t.Context(), store.Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			states[d.State]++
			if d.Class == "ambiguous" {
				doubts++
			}
		}
		if states[outbox.StateHeld] != 4 || states[outbox.StateSent] != 1 || doubts != 3 {
			t.Errorf("the states are %v, %d in doubt", states, doubts)
		}
		if n, err := s.Release(t.Context(), store.Filter{}); err != nil || n != 4 {
			t.Errorf("%d released: %v", n, err)
		}
		if list := claim(10); len(list) != 4 {
			t.Errorf("%d claimed afterwards", len(list))
		}
	})
}
