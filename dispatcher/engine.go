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

// engine is one Run or Flush. Its goroutines are: the claimer, which is the caller's; a lane for each relay, with a goroutine
// for each message that it sends at once, and for Run one that looks after the relay when it is offline; the stager; the settler;
// the keeper; and for Run the reaper, the janitor, the heart and the watcher. They stop in that order, so that whatever was
// sent is recorded.
type engine struct {
	*Dispatcher
	drain    bool // stop when nothing is due
	log      *slog.Logger
	stager   *stager
	settler  *settler
	held     *held
	memory   *semaphore.Weighted // bytes of large bodies
	fetching *semaphore.Weighted // bytes of those that are being fetched
	wake     chan struct{}       // the dispatcher's, or none when draining
	kick     chan struct{}       // a slot was freed, or an outcome recorded
	beatNow  chan struct{}       // the state of a relay changed
	sending  atomic.Int64        // messages that a sender has and whose stage is not asked for yet

	underway atomic.Int64 // messages whose outcome is not known yet

	mu       sync.Mutex
	lanes    []*lane
	launch   func(l *lane)  // starts a lane; an Update does so in between
	workers  sync.WaitGroup // the lanes
	stopping bool

	outOfTurn bool // the claimer's: a lane was refused for its share

	turned  atomic.Int64 // when the claimer last turned, in Unix nanoseconds
	failing atomic.Pointer[string]
}

func newEngine(d *Dispatcher, drain bool) *engine {
	e := &engine{
		Dispatcher: d, drain: drain, log: d.cfg.Logger.With("dispatcher", d.cfg.Name), held: newHeld(),
		memory: semaphore.NewWeighted(d.cfg.MaxBytes), fetching: semaphore.NewWeighted(fetchBytes),
		kick: make(chan struct{}, 1), beatNow: make(chan struct{}, 1),
	}
	if !drain {
		e.wake = d.wake // a drain beside it must not take Run's
	}
	e.stager = newStager(e)
	e.settler = newSettler(e)
	e.turned.Store(time.Now().UnixNano())
	return e
}

// run works until ctx ends or, when draining, nothing is due, and then stops everything that it started.
func (e *engine) run(ctx context.Context) (Report, error) {
	detached := context.WithoutCancel(ctx)
	work, cut := context.WithCancel(detached) // for what is being sent
	defer cut()
	keeping, stopKeeping := context.WithCancel(detached)
	defer stopKeeping()
	settling, stopSettling := context.WithCancel(detached)
	defer stopSettling()

	var stager, settler, keeper, others sync.WaitGroup
	settler.Go(func() { e.settler.run(settling) })
	stager.Go(func() { e.stager.run(detached) })
	keeper.Go(func() { e.keep(keeping) })
	e.begin(work)
	if !e.drain {
		others.Go(func() { e.reap(ctx) })
		if e.cfg.Watch != nil {
			others.Go(func() { e.watch(ctx) })
		}
		if q, ok := e.cfg.Queue.(Cleaner); ok && e.cfg.Retention != (queue.Retention{}) {
			others.Go(func() { e.clean(ctx, q) })
		}
		if q, ok := e.cfg.Queue.(Heartbeater); ok {
			others.Go(func() { e.beat(ctx, q) })
		}
	}

	var grace, patience *time.Timer
	arm := sync.OnceFunc(func() { // when ctx ends, whatever the claimer is waiting for
		grace = time.AfterFunc(e.cfg.Grace, cut)
		patience = time.AfterFunc(e.cfg.Grace+e.cfg.Lease, stopSettling) // with a database that stays away
	})
	unhook := context.AfterFunc(ctx, arm)
	defer unhook()

	err := e.claimLoop(ctx)

	arm()
	defer patience.Stop()
	e.end()
	e.workers.Wait()
	grace.Stop()
	e.stager.close()
	stager.Wait()
	e.settler.close()
	settler.Wait()
	stopKeeping()
	keeper.Wait()
	others.Wait()
	if !e.drain && errors.Is(err, ctx.Err()) {
		err = nil
	}
	return e.settler.report, err
}

// begin starts the lanes and lets Update reach this engine.
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
			var reviver sync.WaitGroup
			if !e.drain {
				reviver.Go(func() { l.revive(ctx) })
			}
			l.run(ctx)
			reviver.Wait()
		})
	}
	for _, r := range e.cfg.Relays {
		e.launch(newLane(e, r))
	}
}

// end closes the lanes. Update does not reach this engine any more.
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

// snapshot are the lanes as they stand now.
func (e *engine) snapshot() []*lane {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.lanes)
}

// kicked notes that the claimer may have something to do.
func (e *engine) kicked() { poke(e.kick) }

// beatSoon has the heart say how the relays do.
func (e *engine) beatSoon() { poke(e.beatNow) }

// poke sends to a channel of one without waiting.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
