// Package dispatcher delivers what a queue holds: it claims deliveries that are due, sends them through relays, and records
// what became of each.
//
// What it promises rests on the queue's leases (see package store) and on one write between claim and send:
//
//   - A delivery is sent only while its lease holds. Before the final dot of a message may leave, its deliveries are marked
//     as past the point of no return, under their token and lease; where that fails, the message is not sent.
//   - An outcome is recorded under the same token. Recording does not stop with the context and is retried while the
//     database is away; leases are renewed until it is done.
//   - When the process dies, leases lapse: what was not past that point is sent again, what was is uncertain and follows
//     the message's [outbox.UncertainPolicy]. With [outbox.Hold] nothing is ever sent twice by itself.
//   - Refusals keep the relay's own words. A refusal of the message counts as an attempt; an outage, throttling or a
//     configuration that an operator must mend does not.
//
// In use: [New] checks a [Config], [Dispatcher.Run] works until its context ends and then stops cleanly, [Dispatcher.Flush]
// delivers what is due and returns. Any number of dispatchers, in one process or in many, may share a queue.
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

// Queue is where deliveries wait. *store.Store is one; its methods say what each of these promises. All of them are called
// concurrently.
type Queue interface {
	// Due lists what is queued on the routes, or on every route when none is given, without writing.
	Due(ctx context.Context, routes []string) ([]queue.Due, error)
	// Claim leases deliveries that are due.
	Claim(ctx context.Context, req queue.ClaimRequest) ([]queue.Claimed, error)
	// Body returns a rendered message that was too large to come with its claim. The dispatcher writes into the bytes and into
	// the capacity behind them.
	Body(ctx context.Context, id outbox.ID) ([]byte, error)
	// Fence marks deliveries as past the point of no return, with the relay that is about to get them, and returns those
	// whose lease is lost.
	Fence(ctx context.Context, list []queue.FencedRef) (lost []queue.Ref, err error)
	// Renew extends leases and returns those that are lost.
	Renew(ctx context.Context, refs []queue.Ref, lease time.Duration) (lost []queue.Ref, err error)
	// Settle records outcomes and returns those whose lease is lost, for which it changed nothing.
	Settle(ctx context.Context, owner string, list []queue.Settlement) (lost []queue.Ref, err error)
	// Reap takes back what lapsed, resends what is uncertain where the message asks for it, and expires the overdue.
	Reap(ctx context.Context) (queue.ReapReport, error)
}

// ErrRunning is returned by Run while another Run of the same Dispatcher goes on.
var ErrRunning = errors.New("dispatcher: already running")

// Dispatcher moves deliveries from a queue to relays. Its methods may be called concurrently.
type Dispatcher struct {
	cfg      Config // but for Relays constant
	wake     chan struct{}
	running  atomic.Bool
	updating sync.Mutex // one Update at a time

	mu      sync.Mutex // guards cfg.Relays and engines
	engines map[*engine]struct{}
}

// New checks the configuration and returns a Dispatcher. It starts nothing and touches neither queue nor relays.
func New(cfg Config) (*Dispatcher, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("dispatcher: %w", err)
	}
	return &Dispatcher{cfg: cfg, wake: make(chan struct{}, 1), engines: make(map[*engine]struct{})}, nil
}

// Wake has the dispatcher look at its queue at once. It never blocks; several calls may be folded into one. Call it after
// a transaction that enqueued has committed.
func (d *Dispatcher) Wake() {
	poke(d.wake)
}

// Run delivers until ctx ends, and then stops: it claims no more, hands back what it has not begun, lets what is being sent
// go on for Grace, records every outcome, and returns nil. While the database is away it waits and tries again; when it is to
// stop, for Grace and a Lease at the most: what it could not record by then becomes uncertain or is sent again, when the leases
// have lapsed. It returns [ErrRunning] if it runs already.
func (d *Dispatcher) Run(ctx context.Context) error {
	if !d.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer d.running.Store(false)
	_, err := newEngine(d, false).run(ctx)
	return err
}

// Report counts what a [Dispatcher.Flush] did, in deliveries.
type Report struct {
	// Sent were accepted.
	Sent int
	// Deferred were put back for later, and Recycled at once.
	Deferred, Recycled int
	// Failed were given up.
	Failed int
	// Uncertain may or may not have been accepted.
	Uncertain int
	// Held were set aside and Expired reached their deadline.
	Held, Expired int
	// Lost were no longer ours when their outcome was to be recorded: their lease had lapsed.
	Lost int
}

// Attempted is the number of deliveries that were settled or lost.
func (r Report) Attempted() int {
	return r.Sent + r.Deferred + r.Recycled + r.Failed + r.Uncertain + r.Held + r.Expired + r.Lost
}

// Flush delivers what is due and what becomes due meanwhile, and returns when nothing is. What is deferred stays for later.
// It may run beside Run. When ctx ends first it stops as Run does and returns the context's error. An error of the queue ends
// it, too; what was already sent is recorded before it returns.
func (d *Dispatcher) Flush(ctx context.Context) (Report, error) {
	return newEngine(d, true).run(ctx)
}
