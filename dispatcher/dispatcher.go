// Package dispatcher claims deliveries that are due from a queue, sends them through relays, and records each outcome.
//
// Its guarantees rest on the leases of the queue (see package store) and on one write between claim and send, the fence:
//
//   - A delivery is sent only while its lease holds. Before the final dot of a message may leave, its deliveries are fenced:
//     the queue records, under their lease, that the relay may have them from now on. If that fails, the message is not sent.
//   - An outcome is recorded under the token of its claim. While the database is away, the dispatcher keeps the outcome,
//     renews the lease and tries again.
//   - If the process dies, its leases lapse. What was not fenced is sent again. What was fenced is uncertain and follows the
//     message's [outbox.UncertainPolicy]. A message with [outbox.Hold] is never sent twice by itself.
//   - A refusal keeps the relay's own words. It counts as an attempt of the message. An outage, throttling or a fault of the
//     configuration does not.
//
// Steps of use:
//
//  1. Describe the relays and the queue in a [Config].
//  2. Call [New]. It checks the configuration and starts nothing.
//  3. Call [Dispatcher.Run]. It delivers until its context ends, and then stops cleanly. Or call [Dispatcher.Flush], which
//     delivers what is due and returns.
//  4. Call [Dispatcher.Wake] after a commit, or set Config.Watch, so that new mail does not wait for the next poll.
//  5. Serve [Dispatcher.Health] as a readiness check. Call [Dispatcher.Update] to change relays without a restart.
//
// Any number of dispatchers may share a queue, in one process or in many.
package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
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

// ErrRunning says that Run was called while another Run of the same Dispatcher goes on. The second call did nothing.
var ErrRunning = errors.New("dispatcher: already running")

// Dispatcher moves deliveries from a queue to relays. Its methods may be called concurrently.
type Dispatcher struct {
	cfg      Config // constant, except for Relays
	wake     chan struct{}
	running  atomic.Bool
	updating sync.Mutex // one Update at a time

	mu      sync.Mutex // guards cfg.Relays and engines
	engines map[*engine]struct{}
}

// New checks the configuration and returns a Dispatcher. It starts nothing and calls neither queue nor relays.
func New(cfg Config) (*Dispatcher, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("dispatcher: %w", err)
	}
	return &Dispatcher{cfg: cfg, wake: make(chan struct{}, 1), engines: make(map[*engine]struct{})}, nil
}

// Wake makes the dispatcher look at its queue at once. Call it after a transaction that enqueued has committed. It never
// blocks. Several calls in short order may count as one.
func (d *Dispatcher) Wake() {
	signal(d.wake)
}

// Run delivers until ctx ends. Then it stops in this order: it claims no more, hands back what it has not begun, lets sends
// go on for Config.Grace, records every outcome, and returns nil. While the database is away, Run waits and tries again. After
// ctx has ended it does so for Grace plus one Lease at most. Outcomes that are not recorded by then are lost: their leases
// lapse, and the deliveries become uncertain or are sent again. Run returns [ErrRunning] if it runs already.
func (d *Dispatcher) Run(ctx context.Context) error {
	if !d.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer d.running.Store(false)
	_, err := newEngine(d, false).run(ctx)
	return err
}

// Report counts deliveries by what a [Dispatcher.Flush] did with them.
type Report struct {
	// Sent counts deliveries that a relay accepted.
	Sent int
	// Deferred counts those that were put back for later. Recycled counts those that were put back to be sent at once.
	Deferred, Recycled int
	// Failed counts those that were given up.
	Failed int
	// Uncertain counts those that a relay may or may not have accepted.
	Uncertain int
	// Held counts those that were set aside for an operator. Expired counts those that reached their deadline.
	Held, Expired int
	// Lost counts those whose lease had lapsed before their outcome was recorded.
	Lost int
}

// Attempted returns the number of deliveries that were settled or lost.
func (r Report) Attempted() int {
	return r.Sent + r.Deferred + r.Recycled + r.Failed + r.Uncertain + r.Held + r.Expired + r.Lost
}

// Flush delivers what is due, and what becomes due meanwhile, and returns when nothing is. It leaves deferred deliveries for
// later. It may run beside Run. If ctx ends first, Flush stops as Run does and returns the context's error. An error of the
// queue also ends it. In both cases it records the outcomes of what was sent before it returns.
func (d *Dispatcher) Flush(ctx context.Context) (Report, error) {
	return newEngine(d, true).run(ctx)
}
