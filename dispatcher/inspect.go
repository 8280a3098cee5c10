package dispatcher

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/outboxmail/outbox/queue"
)

// Inspector is a [Queue] that notices when its database cannot be used, or is another one than before. *store.Store is one.
type Inspector interface {
	// Inspect returns an error while the database only reads or is gone. It returns one that wraps [queue.ErrChanged], once, when the
	// database is another one than at the call before. It does not write.
	Inspect(ctx context.Context) error
}

const (
	// inspectEvery is the time between two inspections.
	inspectEvery = 2 * time.Second
	// changeTold is how long Health tells that the database is another one.
	changeTold = time.Hour
)

// findings is what the inspections found.
type findings struct {
	mu      sync.Mutex
	fault   string // "" while the database can be used
	change  string
	changed time.Time
}

// reasons returns what Health says, and whether the database can be used.
func (f *findings) reasons() (list []string, usable bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fault != "" {
		list = append(list, "the database cannot be used: "+f.fault)
	}
	if f.change != "" && time.Since(f.changed) < changeTold {
		list = append(list, "the database changed at "+f.changed.UTC().Format(time.RFC3339)+": "+f.change)
	}
	return list, f.fault == ""
}

// inspect looks at the database until ctx ends. It tells of each fault and each change once.
func (e *engine) inspect(ctx context.Context, q Inspector) {
	tick := time.NewTicker(inspectEvery)
	defer tick.Stop()
	for {
		limited, cancel := context.WithTimeout(ctx, e.cfg.Lease)
		err := q.Inspect(limited)
		cancel()
		if ctx.Err() != nil {
			return
		}
		e.found(ctx, err)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// found notes the result of an inspection.
func (e *engine) found(ctx context.Context, err error) {
	f := &e.findings
	f.mu.Lock()
	before := f.fault
	f.fault = ""
	switch {
	case errors.Is(err, queue.ErrChanged):
		f.change, f.changed = err.Error(), time.Now()
	case err != nil:
		f.fault = err.Error()
	}
	fault := f.fault
	f.mu.Unlock()
	switch {
	case errors.Is(err, queue.ErrChanged):
		e.log.ErrorContext(ctx, "the database is another one than before", "error", err)
		e.queueFault(ctx, "inspect", err)
		e.queueFault(ctx, "inspect", nil)
		e.Wake()
	case err != nil && before == "":
		e.log.ErrorContext(ctx, "the database cannot be used; will try again", "error", err)
		e.queueFault(ctx, "inspect", err)
	case fault == "" && before != "":
		e.log.InfoContext(ctx, "the database can be used again")
		e.queueFault(ctx, "inspect", nil)
		e.Wake()
	}
}
