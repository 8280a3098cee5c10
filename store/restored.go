package store

import (
	"context"
	"slices"
)

// What HoldRestored says about a delivery, and what the audit says unless the caller gives a reason.
const (
	restoredDoubt  = "held after a restore: it was on its way when the copy was made, so the relay may have it"
	restoredWaited = "held after a restore: it waited when the copy was made, so the original may have sent it since"
	restoredReason = "the database was restored from a copy"
)

// HoldRestored is for a database that was restored from a copy. The original may have sent since what waits in the copy, and a dispatcher
// on the copy would send it again. It holds everything that a dispatcher might send: queued, sending and uncertain → held. What was on
// its way or in doubt has the class "ambiguous" afterwards. Release what must go out, and cancel what the original has sent.
//
// Call it before the first dispatcher runs on the copy. A dispatcher that runs already loses all leases that it has there, whatever the
// filter is. What has passed its fence at this moment arrives all the same.
func (s *Store) HoldRestored(ctx context.Context, f Filter, opts ...BulkOption) (int64, error) {
	if reasonOf(ctx) == "" {
		ctx = WithReason(ctx, restoredReason)
	}
	opts = append(slices.Clone(opts), as(string(OpHold)))
	return s.run(ctx, OpHoldRestored, f, opts, "class = CASE WHEN state = 'queued' THEN class ELSE 'ambiguous' END, "+
		"reply = CASE WHEN state = 'queued' THEN '"+restoredWaited+"' ELSE '"+restoredDoubt+"' END, "+
		"state = 'held', lease_token = NULL, doubt_token = NULL")
}
