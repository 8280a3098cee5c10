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
//   - A message that ends the process again and again is handled apart from others, and is held after five times.
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
)

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
	_, err := newEngine(d, false).run(ctx, d)
	return err
}

// Flush delivers what is due, and what becomes due meanwhile, and returns when nothing is. It leaves deferred deliveries for
// later. It may run beside Run. If ctx ends first, Flush stops as Run does and returns the context's error. An error of the
// queue also ends it. In both cases it records the outcomes of what was sent before it returns.
func (d *Dispatcher) Flush(ctx context.Context) (Report, error) {
	return newEngine(d, true).run(ctx, d)
}
