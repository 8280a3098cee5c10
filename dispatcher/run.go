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

// engine is one Run or Flush. It puts the parts together, starts and stops them. Its goroutines stop in this order, so that whatever was
// sent is recorded:
//
//   - the claimer, which is the caller's goroutine
//   - the sends of each lane, a goroutine each
//   - the ledger's: fencing, settling and renewing
//   - the chores
type engine struct {
	cfg      *Config
	log      *slog.Logger
	guard    guard
	ledger   *ledger
	memory   *memory
	fetching *semaphore.Weighted
	bulletin *bulletin
	claimer  *claimer
	chores   *chores
	progress chan struct{} // a slot was freed, or an outcome recorded

	mu       sync.Mutex
	lanes    []*lane
	work     context.Context //nolint:containedctx // of the sends; lanes that Update adds get it, too
	open     sync.WaitGroup  // lanes, including those that Update took out
	stopping bool
}

func newEngine(d *Dispatcher, drain bool) *engine {
	log := d.cfg.Logger.With("dispatcher", d.cfg.Name)
	e := &engine{
		cfg: &d.cfg, log: log, guard: guard{log}, memory: newMemory(d.cfg.MaxBytes), fetching: semaphore.NewWeighted(fetchBytes),
		progress: make(chan struct{}, 1),
	}
	e.ledger = newLedger(e.cfg, log, func() { signal(e.progress) }, func(ctx context.Context, refs []queue.Ref) {
		tell(ctx, e.guard, "Observer.Lost", e.cfg.Observer.Lost, refs)
	})
	e.chores = &chores{
		cfg: e.cfg, log: log, guard: e.guard, ledger: e.ledger, lanes: e.snapshot, wake: d.Wake, faults: e.faults,
		observer: e.cfg.Observer.Queue, heartbeatNow: make(chan struct{}, 1), pauseNow: make(chan struct{}, 1),
	}
	e.bulletin = &bulletin{log: log, guard: e.guard, observer: e.cfg.Observer.Fault, changed: func() { signal(e.chores.heartbeatNow) }}
	e.chores.bulletin = e.bulletin
	e.claimer = &claimer{
		cfg: e.cfg, log: log, guard: e.guard, ledger: e.ledger, lanes: e.snapshot, drain: drain, wake: d.wake, progress: e.progress,
		planner: newPlanner(e.cfg.Poll), pauses: func(context.Context) {}, orphans: e.chores.unserved,
		fault: func(ctx context.Context, err error) { e.chores.queueFault(ctx, "claim", err) },
	}
	if drain {
		e.claimer.wake = nil // a Flush must not take the wake-up of Run
		e.claimer.orphans = func(context.Context, []string) {}
	}
	if q, ok := e.cfg.Queue.(Pauser); ok {
		e.claimer.pauses = func(ctx context.Context) { e.chores.readPauses(ctx, q) }
	}
	e.claimer.lastLook.Store(time.Now().UnixNano())
	return e
}

// run works until ctx ends, and a Flush also until nothing is due. Then it stops everything that it started.
func (e *engine) run(ctx context.Context, d *Dispatcher) (Report, error) {
	detached := context.WithoutCancel(ctx)
	work, cut := context.WithCancel(detached) // for sends
	defer cut()
	renewing, stopRenewing := context.WithCancel(detached)
	defer stopRenewing()
	settling, stopSettling := context.WithCancel(detached)
	defer stopSettling()

	var fencer, settler, renewer, sharer, others sync.WaitGroup
	settler.Go(func() { e.ledger.settleLoop(settling) })
	settler.Go(func() { e.ledger.asideLoop(settling) })
	fencer.Go(func() { e.ledger.fenceLoop(detached) })
	renewer.Go(func() { e.ledger.renewLoop(renewing) })
	sent := make(chan struct{}) // closed when nothing is sent any more
	pauser, pauses := e.cfg.Queue.(Pauser)
	if pauses {
		sharer.Go(func() { e.chores.sharePauses(detached, pauser, sent) })
	}
	d.join(e, work)
	if !e.claimer.drain {
		e.startChores(ctx, &others)
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

	err := e.claimer.loop(ctx)

	startTimers()
	defer deadline.Stop()
	d.leave(e)
	e.stopLanes()
	grace.Stop()
	close(sent)
	sharer.Wait()
	close(e.ledger.fenceClosed)
	fencer.Wait()
	close(e.ledger.outcomes)
	settler.Wait()
	stopRenewing()
	renewer.Wait()
	others.Wait()
	if !e.claimer.drain && errors.Is(err, ctx.Err()) {
		err = nil
	}
	return e.ledger.report, err
}

// startChores starts what a Run does beside claiming and sending.
func (e *engine) startChores(ctx context.Context, others *sync.WaitGroup) {
	others.Go(func() { e.chores.reap(ctx) })
	others.Go(func() { e.chores.supervise(ctx) })
	if q, ok := e.cfg.Queue.(Inspector); ok {
		others.Go(func() { e.chores.inspect(ctx, q) })
	}
	if e.cfg.Watch != nil {
		others.Go(func() { e.chores.watch(ctx) })
	}
	if q, ok := e.cfg.Queue.(Cleaner); ok && e.cfg.Retention != (queue.Retention{}) {
		others.Go(func() { e.chores.clean(ctx, q) })
	}
	if q, ok := e.cfg.Queue.(Heartbeater); ok {
		others.Go(func() { e.chores.heartbeat(ctx, q) })
	}
	if q, ok := e.cfg.Queue.(Pauser); ok {
		others.Go(func() { e.chores.hearPauses(ctx, q) })
	}
}

// start gives the engine its first lanes.
func (e *engine) start(work context.Context, relays []Relay) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.work = work
	for _, r := range relays {
		e.launch(r) //nolint:contextcheck // a lane is set up without a context; its panics are only logged
	}
}

// launch starts a lane. The caller holds the mutex.
func (e *engine) launch(r Relay) {
	current := new(atomic.Pointer[Relay])
	current.Store(&r)
	c := &courier{
		cfg: e.cfg, log: e.log, guard: e.guard, name: r.Name, current: current, ledger: e.ledger, fetching: e.fetching,
		another: func(route string) bool { return another(e.snapshot(), r.Name, route) },
	}
	c.send = c.chain()
	e.open.Add(1)
	e.lanes = append(e.lanes, newLane(e.work, current, c, e.memory, surroundings{
		moved: func() { signal(e.progress) },
		changed: func() {
			signal(e.chores.heartbeatNow)
			signal(e.chores.pauseNow)
		},
		ended: e.open.Done, observer: e.cfg.Observer.Relay, restores: !e.claimer.drain, probe: e.cfg.Lease,
	}))
}

// stopLanes closes the lanes and waits until their sends have ended.
func (e *engine) stopLanes() {
	e.mu.Lock()
	e.stopping = true
	lanes := slices.Clone(e.lanes)
	e.mu.Unlock()
	for _, l := range lanes {
		l.close()
	}
	e.open.Wait()
}

// update gives the lanes their new configuration. It returns the lanes that the caller must close.
func (e *engine) update(relays []Relay) (out []*lane) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopping {
		return nil
	}
	before := e.lanes
	e.lanes = nil
	var fresh []Relay
	for _, r := range relays {
		i := slices.IndexFunc(before, func(l *lane) bool { return l.name == r.Name && sameSender(l.relay().Sender, r.Sender) })
		if i < 0 {
			fresh = append(fresh, r)
			continue
		}
		before[i].update(r)
		e.lanes = append(e.lanes, before[i])
	}
	for _, l := range before {
		if !slices.Contains(e.lanes, l) {
			out = append(out, l)
		}
	}
	for _, r := range fresh {
		e.launch(r)
	}
	signal(e.progress)
	return out
}

// snapshot returns the present lanes.
func (e *engine) snapshot() []*lane {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.lanes)
}
