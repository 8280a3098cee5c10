package dispatcher

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/outboxmail/outbox/queue"
)

const (
	// inspectEvery is the time between two inspections.
	inspectEvery = 2 * time.Second
	// changeTold is how long Health tells that the database is another one.
	changeTold = time.Hour
)

// findings is what the inspections found.
type findings struct {
	mu     sync.Mutex
	fault  Fault // FaultDatabase; its kind is empty while the database can be used
	change Fault // FaultChanged; its kind is empty before the first change
}

// faults returns what Health tells.
func (f *findings) faults() (list []Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fault.Kind != "" {
		list = append(list, f.fault)
	}
	if f.change.Kind != "" && time.Since(f.change.Since) < changeTold {
		list = append(list, f.change)
	}
	return list
}

// inspect looks at the database until ctx ends. It tells of each fault and each change once.
func (c *chores) inspect(ctx context.Context, q Inspector) {
	tick := time.NewTicker(inspectEvery)
	defer tick.Stop()
	for {
		limited, cancel := context.WithTimeout(ctx, c.cfg.Lease)
		err := q.Inspect(limited)
		cancel()
		if ctx.Err() != nil {
			return
		}
		c.found(ctx, err)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// found notes the result of an inspection.
func (c *chores) found(ctx context.Context, err error) {
	f := &c.findings
	f.mu.Lock()
	before := f.fault
	f.fault = Fault{}
	switch {
	case errors.Is(err, queue.ErrChanged):
		f.change = Fault{Kind: FaultChanged, Since: time.Now(), Error: err.Error()}
	case err != nil:
		f.fault = Fault{Kind: FaultDatabase, Since: time.Now(), Error: err.Error()}
		if before.Kind != "" {
			f.fault.Since = before.Since
		}
	}
	f.mu.Unlock()
	switch {
	case errors.Is(err, queue.ErrChanged):
		c.log.ErrorContext(ctx, "the database is another one than before", "error", err)
		c.queueFault(ctx, "inspect", err)
		c.queueFault(ctx, "inspect", nil)
		c.wake()
	case err != nil && before.Kind == "":
		c.log.ErrorContext(ctx, "the database cannot be used; will try again", "error", err)
		c.queueFault(ctx, "inspect", err)
	case err == nil && before.Kind != "":
		c.log.InfoContext(ctx, "the database can be used again")
		c.queueFault(ctx, "inspect", nil)
		c.wake()
	}
}
