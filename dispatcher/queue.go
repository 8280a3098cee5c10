package dispatcher

import (
	"context"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

// Queue keeps the deliveries. *store.Store is one; its methods state the guarantees in full. The dispatcher calls all
// methods concurrently.
type Queue interface {
	// Due lists what is queued on the routes and when it is due. No routes means every route. It does not write.
	Due(ctx context.Context, routes []string) ([]queue.Due, error)
	// Claim leases deliveries that are due.
	Claim(ctx context.Context, req queue.ClaimRequest) ([]queue.Claimed, error)
	// Body returns a rendered message that was too large to come with its claim. The dispatcher may change the returned bytes
	// and use the capacity behind them.
	Body(ctx context.Context, id outbox.ID) ([]byte, error)
	// Fence records that the named relays may have the deliveries from now on. It returns those whose lease is lost; they
	// must not be sent.
	Fence(ctx context.Context, list []queue.FencedRef) (lost []queue.Ref, err error)
	// Renew extends the leases of claims and returns the tokens of those that are gone.
	Renew(ctx context.Context, tokens []string, lease time.Duration) (lost []string, err error)
	// Settle records outcomes. It returns those whose lease is lost; it changed nothing for them.
	Settle(ctx context.Context, owner string, list []queue.Settlement) (lost []queue.Ref, err error)
	// Reap takes back lapsed deliveries, queues uncertain ones again if their message says so, and expires overdue ones.
	Reap(ctx context.Context) (queue.ReapReport, error)
}

// Cleaner is a [Queue] that can remove finished deliveries. *store.Store is one.
type Cleaner interface {
	// Clean removes, in batches, what the retention no longer keeps. It returns what it removed, even with an error.
	Clean(ctx context.Context, keep queue.Retention) (queue.CleanReport, error)
}

// Heartbeater is a [Queue] that lists the dispatchers that run. *store.Store is one. The list is for operators; leases do not depend
// on it.
type Heartbeater interface {
	// Heartbeat records that a dispatcher runs.
	Heartbeat(ctx context.Context, h queue.Heartbeat) error
	// Retire removes a dispatcher that has stopped.
	Retire(ctx context.Context, id string) error
}

// Inspector is a [Queue] that notices when its database cannot be used, or is another one than before. *store.Store is one.
type Inspector interface {
	// Inspect returns an error while the database only reads or is gone. It returns one that wraps [queue.ErrChanged], once, when the
	// database is another one than at the call before. It does not write.
	Inspect(ctx context.Context) error
}

// Pauser is a [Queue] that keeps the pauses of relays for all dispatchers of a database. *store.Store is one. With another queue
// each dispatcher learns for itself that an allowance is used up.
type Pauser interface {
	// PauseRelay stops all claims for a relay for the time d, by the clock of the database.
	PauseRelay(ctx context.Context, name string, d time.Duration, reason string) error
	// RelayStates lists the pauses.
	RelayStates(ctx context.Context) ([]queue.RelayState, error)
}

// noticeEncrypter is a [Queue] that encrypts the notices of settlements. *store.Store says whether it does.
type noticeEncrypter interface{ EncryptsNotices() bool }
