package dispatcher

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/outboxmail/outbox/queue"
)

// engine is one Run or Flush. Its goroutines stop in this order, so that whatever was sent is recorded:
//
//   - the claimer, which is the caller's goroutine
//   - a lane for each relay, with a goroutine for each message that it sends at once; in Run also one that brings the relay back
//     after an outage
//   - the ledger's: fencing, settling and renewing
//   - in Run also the reaper, the cleaner, the heartbeat, the watcher and the inspector
type engine struct {
	*Dispatcher
	drain        bool // Flush: stop when nothing is due
	log          *slog.Logger
	ledger       *ledger
	memory       *semaphore.Weighted // bytes of large bodies in memory
	fetching     *semaphore.Weighted // bytes of large bodies that are being fetched
	wake         chan struct{}       // the dispatcher's; nil in a Flush
	progress     chan struct{}       // a slot was freed, or an outcome recorded
	heartbeatNow chan struct{}       // the state of a relay changed

	mu       sync.Mutex
	lanes    []*lane
	launch   func(l *lane)  // starts a lane; Update uses it, too
	workers  sync.WaitGroup // of the lanes
	stopping bool

	outOfTurn bool // only the claimer uses it: a lane must wait for others

	lastLook atomic.Int64 // when the claimer last looked at the queue, in Unix nanoseconds
	failing  atomic.Pointer[string]
	stalled  atomic.Pointer[[]string] // what supervise found
	findings findings                 // of the inspections
}

func newEngine(d *Dispatcher, drain bool) *engine {
	e := &engine{
		Dispatcher: d, drain: drain, log: d.cfg.Logger.With("dispatcher", d.cfg.Name),
		memory: semaphore.NewWeighted(d.cfg.MaxBytes), fetching: semaphore.NewWeighted(fetchBytes),
		progress: make(chan struct{}, 1), heartbeatNow: make(chan struct{}, 1),
	}
	if !drain {
		e.wake = d.wake // a Flush must not take the wake-up of Run
	}
	e.ledger = newLedger(&d.cfg, e.log, e.progressed, func(ctx context.Context, refs []queue.Ref) {
		notify(ctx, e, "Observer.Lost", d.cfg.Observer.Lost, refs)
	})
	e.lastLook.Store(time.Now().UnixNano())
	return e
}

// run works until ctx ends, and a Flush also until nothing is due. Then it stops everything that it started.
func (e *engine) run(ctx context.Context) (Report, error) {
	detached := context.WithoutCancel(ctx)
	work, cut := context.WithCancel(detached) // for sends
	defer cut()
	renewing, stopRenewing := context.WithCancel(detached)
	defer stopRenewing()
	settling, stopSettling := context.WithCancel(detached)
	defer stopSettling()

	var fencer, settler, renewer, others sync.WaitGroup
	settler.Go(func() { e.ledger.settleLoop(settling) })
	settler.Go(func() { e.ledger.asideLoop(settling) })
	fencer.Go(func() { e.ledger.fenceLoop(detached) })
	renewer.Go(func() { e.ledger.renewLoop(renewing) })
	e.begin(work)
	if !e.drain {
		others.Go(func() { e.reap(ctx) })
		others.Go(func() { e.supervise(ctx) })
		if q, ok := e.cfg.Queue.(Inspector); ok {
			others.Go(func() { e.inspect(ctx, q) })
		}
		if e.cfg.Watch != nil {
			others.Go(func() { e.watch(ctx) })
		}
		if q, ok := e.cfg.Queue.(Cleaner); ok && e.cfg.Retention != (queue.Retention{}) {
			others.Go(func() { e.clean(ctx, q) })
		}
		if q, ok := e.cfg.Queue.(Heartbeater); ok {
			others.Go(func() { e.heartbeat(ctx, q) })
		}
	}

	var grace, deadline *time.Timer
	startTimers := sync.OnceFunc(func() { // as soon as ctx ends, even if the claimer still waits for the queue
		grace = time.AfterFunc(e.cfg.Grace, cut)
		deadline = time.AfterFunc(e.cfg.Grace+e.cfg.Lease, func() {
			e.ledger.setDeadline(time.Now())
			stopSettling()
		})
	})
	unhook := context.AfterFunc(ctx, startTimers)
	defer unhook()

	err := e.claimLoop(ctx)

	startTimers()
	defer deadline.Stop()
	e.end()
	e.workers.Wait()
	grace.Stop()
	close(e.ledger.fenceClosed)
	fencer.Wait()
	close(e.ledger.outcomes)
	settler.Wait()
	stopRenewing()
	renewer.Wait()
	others.Wait()
	if !e.drain && errors.Is(err, ctx.Err()) {
		err = nil
	}
	return e.ledger.report, err
}

// begin starts the lanes. From now on Update changes this engine.
func (e *engine) begin(work context.Context) {
	e.Dispatcher.mu.Lock()
	defer e.Dispatcher.mu.Unlock()
	e.engines[e] = struct{}{}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.launch = func(l *lane) {
		ctx, cut := context.WithCancel(work)
		l.cut = cut
		e.lanes = append(e.lanes, l)
		e.workers.Go(func() {
			defer cut()
			defer close(l.finished)
			var restorer sync.WaitGroup
			if !e.drain {
				restorer.Go(func() { l.restore(ctx) })
			}
			l.run(ctx)
			restorer.Wait()
		})
	}
	for _, r := range e.cfg.Relays {
		e.launch(newLane(e, r)) //nolint:contextcheck // a lane is set up without a context; its panics are only logged
	}
}

// end closes the lanes. From now on Update leaves this engine alone.
func (e *engine) end() {
	e.Dispatcher.mu.Lock()
	delete(e.engines, e)
	e.Dispatcher.mu.Unlock()
	e.mu.Lock()
	e.stopping = true
	lanes := slices.Clone(e.lanes)
	e.mu.Unlock()
	for _, l := range lanes {
		l.close()
	}
}

// snapshot returns the present lanes.
func (e *engine) snapshot() []*lane {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.lanes)
}

// progressed tells the claimer that a slot was freed or an outcome recorded.
func (e *engine) progressed() { signal(e.progress) }

// heartbeatSoon asks for a heartbeat, because the state of a relay changed.
func (e *engine) heartbeatSoon() { signal(e.heartbeatNow) }

// signal sends to a channel with a buffer of one. It never blocks.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
