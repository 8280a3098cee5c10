package dispatcher

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

const (
	// settleBatch is how many outcomes share one statement.
	settleBatch = 500
	// settleWait is how long the first of them waits for others, and settleFor how many it waits for, for each message that is
	// under way: hardly anything waits for an outcome.
	settleWait = 20 * time.Millisecond
	settleFor  = 4
	// settleAlone is how few messages under way are not waited for: what they would share saves nothing worth a wait.
	settleAlone = 3
)

// settler records outcomes. While one statement runs, further outcomes gather and share the next, and where more than
// three messages are under way they gather for a moment longer. With fewer each is recorded at once.
type settler struct {
	*engine
	outcomes chan queue.Settlement
	report   Report      // read after run has returned
	behind   atomic.Bool // outcomes could not be recorded and are tried again
}

func newSettler(e *engine) *settler {
	return &settler{engine: e, outcomes: make(chan queue.Settlement, settleBatch)}
}

// put hands over outcomes. It blocks while the database is slower than the relays, and so slows the lanes.
func (s *settler) put(list ...queue.Settlement) {
	for _, o := range list {
		s.outcomes <- o
	}
}

// close ends run once all outcomes are recorded. Nobody may put any more.
func (s *settler) close() { close(s.outcomes) }

// run records outcomes until it is closed.
func (s *settler) run(ctx context.Context) {
	for first := range s.outcomes {
		batch := gather(first, s.outcomes, settleBatch, settleWait, s.expected)
		lost := s.record(ctx, batch)
		refs := make([]queue.Ref, len(batch))
		for i, o := range batch {
			refs[i] = o.Ref
			s.count(o, lost[o.Ref])
		}
		s.leases.remove(refs)
		s.progressed()
	}
}

// expected is how many outcomes are worth a wait.
func (s *settler) expected() int {
	n := int(s.underway.Load())
	if n <= settleAlone {
		return 0
	}
	return settleFor * n
}

// record writes a batch, again and again while the database is away, until ctx ends or all leases must have lapsed for
// certain: then the reaper of whoever comes back decides.
func (s *settler) record(ctx context.Context, batch []queue.Settlement) map[queue.Ref]bool {
	var (
		lost    []queue.Ref
		failing bool
	)
	defer s.behind.Store(false)
	// Seldom enough not to hurt a database that comes back, often enough to be there before the reapers of others.
	policy := backoff.WithContext(backoff.NewExponentialBackOff(backoff.WithInitialInterval(50*time.Millisecond),
		backoff.WithMaxInterval(time.Second), backoff.WithMaxElapsedTime(s.cfg.Lease*lapses)), ctx)
	err := backoff.RetryNotify(func() (err error) {
		// The end of ctx ends the repetition, not a try: an outcome that comes late is recorded all the same.
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Lease)
		defer cancel()
		lost, err = s.cfg.Queue.Settle(limited, s.cfg.Name, batch)
		if _, bad := errors.AsType[*outbox.InvalidError](err); bad {
			// A notice that the queue does not take must not keep outcomes from being recorded.
			s.log.ErrorContext(ctx, "notices of failures are refused; the failures are recorded without them", "error", err)
			for i := range batch {
				batch[i].Notice = nil
			}
			lost, err = s.cfg.Queue.Settle(limited, s.cfg.Name, batch)
		}
		return err
	}, policy, func(err error, _ time.Duration) {
		if !failing {
			failing = true
			s.behind.Store(true)
			s.log.ErrorContext(ctx, "cannot record outcomes; trying again", "outcomes", len(batch), "error", err)
		}
	})
	if err != nil {
		s.log.ErrorContext(ctx, "outcomes not recorded; their leases lapse and they become uncertain or are sent again",
			"outcomes", len(batch), "error", err)
		for _, o := range batch {
			lost = append(lost, o.Ref)
		}
	} else if failing {
		s.log.InfoContext(ctx, "outcomes recorded after all", "outcomes", len(batch))
	}
	gone := make(map[queue.Ref]bool, len(lost))
	for _, ref := range lost {
		gone[ref] = true
	}
	if failing && err == nil {
		// An earlier try may have taken effect without our hearing of it: then these are recorded, not lost.
		return nil
	}
	if len(gone) > 0 && err == nil {
		s.log.WarnContext(ctx, "leases were lost before their outcome was recorded", "deliveries", len(gone))
		notify(ctx, s.engine, "Observer.Lost", s.cfg.Observer.Lost, lost)
	}
	return gone
}

// lapses is for how many leases an outcome is kept in memory while the database is away.
const lapses = 10

// count adds an outcome to the report.
func (s *settler) count(o queue.Settlement, lost bool) {
	r := &s.report
	if lost {
		r.Lost++
		return
	}
	switch o.Outcome {
	case queue.Sent:
		r.Sent++
	case queue.Deferred:
		r.Deferred++
	case queue.Recycled:
		r.Recycled++
	case queue.Failed:
		r.Failed++
	case queue.Uncertain:
		r.Uncertain++
	case queue.Held:
		r.Held++
	case queue.Expired:
		r.Expired++
	}
}
