package dispatcher

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outboxmail/outbox"
)

// engine is one Run or Flush. Its goroutines are: the claimer, which is the caller's; the workers of each lane; the stager;
// the settler; the keeper; and for Run the reaper, the janitor, the heart and the watcher. They stop in that order, so that
// whatever was sent is recorded.
type engine struct {
	*Dispatcher
	drain   bool // stop when nothing is due
	log     *slog.Logger
	lanes   []*lane
	stager  *stager
	settler *settler
	held    *held
	wake    chan struct{} // the dispatcher's, or none when draining
	kick    chan struct{} // a slot was freed, or an outcome recorded
	sending atomic.Int64  // messages that a sender has and whose stage is not asked for yet
}

func newEngine(d *Dispatcher, drain bool) *engine {
	e := &engine{
		Dispatcher: d, drain: drain, log: d.cfg.Logger.With("dispatcher", d.cfg.Name),
		held: newHeld(), kick: make(chan struct{}, 1),
	}
	if !drain {
		e.wake = d.wake // a drain beside it must not take Run's
	}
	e.stager = newStager(e)
	e.settler = newSettler(e)
	for _, r := range d.cfg.Relays {
		e.lanes = append(e.lanes, newLane(e, r))
	}
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

	var workers, stager, settler, keeper, others sync.WaitGroup
	settler.Go(func() { e.settler.run(settling) })
	stager.Go(func() { e.stager.run(detached) })
	keeper.Go(func() { e.keep(keeping) })
	for _, l := range e.lanes {
		for range e.cfg.Concurrency {
			workers.Go(func() { l.work(work) })
		}
	}
	if !e.drain {
		others.Go(func() { e.reap(ctx) })
		if e.cfg.Watch != nil {
			others.Go(func() { e.watch(ctx) })
		}
		if q, ok := e.cfg.Queue.(Cleaner); ok && e.cfg.Retention != (outbox.Retention{}) {
			others.Go(func() { e.clean(ctx, q) })
		}
		if q, ok := e.cfg.Queue.(Heartbeater); ok {
			others.Go(func() { e.beat(ctx, q) })
		}
	}

	err := e.claimLoop(ctx)

	for _, l := range e.lanes {
		l.close()
	}
	grace := time.AfterFunc(e.cfg.Grace, cut)
	patience := time.AfterFunc(e.cfg.Grace+e.cfg.Lease, stopSettling) // with a database that stays away
	defer patience.Stop()
	workers.Wait()
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

// kicked notes that the claimer may have something to do.
func (e *engine) kicked() {
	select {
	case e.kick <- struct{}{}:
	default:
	}
}
