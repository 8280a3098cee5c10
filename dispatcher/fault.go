package dispatcher

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// FaultKind names a kind of [Fault]. The strings never change.
type FaultKind string

// The kinds of faults.
const (
	// FaultUnserved means that messages are due on a route that no relay of the dispatcher serves.
	FaultUnserved FaultKind = "unserved_route"
	// FaultHung means that sends through a relay have not returned for Config.SendTimeout.
	FaultHung FaultKind = "hung_sends"
	// FaultSilent means that the dispatcher has not looked at its queue for a while.
	FaultSilent FaultKind = "silent"
	// FaultQueue means that the queue does not answer.
	FaultQueue FaultKind = "queue"
	// FaultDatabase means that the database cannot be used, for example because it only reads.
	FaultDatabase FaultKind = "database"
	// FaultChanged means that the database is another one than before. It is told for an hour.
	FaultChanged FaultKind = "database_changed"
	// FaultUnrecorded means that outcomes cannot be recorded.
	FaultUnrecorded FaultKind = "unrecorded"
)

// Fault is something that only a person can mend, apart from the state of a relay; see [RelayHealth].
type Fault struct {
	Kind FaultKind
	// Relay or Route names what is concerned, for the kinds that concern one.
	Relay, Route string
	// Count is the number of sends or outcomes, for the kinds that count them.
	Count int
	// Since is when the fault began, as far as the dispatcher knows.
	Since time.Time
	// Error is the error that was met last. Empty for kinds without one.
	Error string
}

// String describes the fault in a few words.
func (f Fault) String() string {
	d := time.Since(f.Since).Round(time.Second)
	switch f.Kind {
	case FaultUnserved:
		return fmt.Sprintf("messages wait on route %q, which no relay serves", f.Route)
	case FaultHung:
		return fmt.Sprintf("relay %s: %d sends have not returned, one for %v", f.Relay, f.Count, d)
	case FaultSilent:
		return fmt.Sprintf("no look at the queue for %v", d)
	case FaultQueue:
		return "the queue does not answer: " + f.Error
	case FaultDatabase:
		return "the database cannot be used: " + f.Error
	case FaultChanged:
		return "the database changed at " + f.Since.UTC().Format(time.RFC3339) + ": " + f.Error
	case FaultUnrecorded:
		if f.Count > 0 {
			return fmt.Sprintf("%d outcomes cannot be recorded", f.Count)
		}
		return fmt.Sprintf("no outcome could be recorded for %v: %s", d, f.Error)
	default:
		return string(f.Kind)
	}
}

// FaultEvent says that a fault began, or with Over that it is over.
type FaultEvent struct {
	Fault Fault
	Over  bool
}

// bulletin holds the faults that are known, and tells of each when it begins and when it is over.
type bulletin struct {
	log      *slog.Logger
	guard    guard
	observer func(ctx context.Context, e FaultEvent)
	changed  func()

	mu   sync.Mutex
	list []Fault
}

// post replaces the known faults of some kinds by those that were found now.
func (b *bulletin) post(ctx context.Context, found []Fault, kinds ...FaultKind) {
	type key struct {
		kind         FaultKind
		relay, route string
	}
	keyOf := func(f Fault) key { return key{f.Kind, f.Relay, f.Route} }
	has := func(list []Fault, f Fault) bool {
		return slices.ContainsFunc(list, func(other Fault) bool { return keyOf(other) == keyOf(f) })
	}
	b.mu.Lock()
	var events []FaultEvent
	for _, f := range found {
		if !has(b.list, f) {
			events = append(events, FaultEvent{Fault: f})
		}
	}
	var kept []Fault
	for _, f := range b.list {
		switch {
		case !slices.Contains(kinds, f.Kind):
			kept = append(kept, f)
		case !has(found, f):
			events = append(events, FaultEvent{Fault: f, Over: true})
		default:
			i := slices.IndexFunc(found, func(other Fault) bool { return keyOf(other) == keyOf(f) })
			found[i].Since = f.Since
		}
	}
	b.list = slices.Concat(kept, found)
	b.mu.Unlock()
	for _, e := range events {
		attrs := []any{"kind", e.Fault.Kind, "relay", e.Fault.Relay, "route", e.Fault.Route, "count", e.Fault.Count,
			"since", e.Fault.Since, "error", masked(e.Fault.Error)}
		message, logs := faultMessages[e.Fault.Kind]
		switch {
		case logs && e.Over:
			b.log.InfoContext(ctx, "a fault is over", attrs...)
		case logs:
			b.log.ErrorContext(ctx, message, attrs...) //nolint:sloglint // one of a few constants
		}
		tell(ctx, b.guard, "Observer.Fault", b.observer, e)
	}
	if len(events) > 0 {
		b.changed()
	}
}

// faultMessages are the messages of the log, for those kinds that are not logged where they are met.
var faultMessages = map[FaultKind]string{
	FaultUnserved: "no relay serves a route on which messages wait",
	FaultHung:     "sends do not return",
	FaultSilent:   "the dispatcher does not look at its queue",
}

// of returns the known faults of a kind.
func (b *bulletin) of(kind FaultKind) (list []Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.list {
		if f.Kind == kind {
			list = append(list, f)
		}
	}
	return list
}
