package store

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/outboxmail/outbox"
)

// Overview is what a person on call asks first: what waits on each route, and what came of the last hour.
type Overview struct {
	// Now is the time of the database.
	Now time.Time
	// Routes has every route with unfinished deliveries, with deliveries that ended in the last hour, or with a pause, by name.
	Routes []RouteState
	// Outcomes are the last ones of what waits, is uncertain, or failed in the last hour, the most frequent first, at most 100.
	Outcomes []OutcomeCount
	// Lapsed counts deliveries whose lease lapsed more than a minute ago and that nobody took back. OldestLapse is when the first one
	// lapsed.
	Lapsed      int64
	OldestLapse time.Time
	// More says that LastHour counts only the newest [LatelyAtMost] of a state.
	More bool
}

// LatelyAtMost is how many deliveries of each state [Store.Overview] counts for the last hour.
const LatelyAtMost = 100_000

// RouteState is the state of a route.
type RouteState struct {
	Route string
	// Due, Scheduled and Deferred divide the queued deliveries as [Stats] does. OldestDue is zero if none is due.
	Due, Scheduled, Deferred int64
	OldestDue                time.Time
	Sending, Uncertain, Held int64
	// OldestHeld is when the oldest held delivery was enqueued.
	OldestHeld time.Time
	// Expiring counts queued deliveries that expire soon.
	Expiring int64
	// LastHour counts what ended in the last hour, by state. Enqueued counts what was enqueued in it, at most [LatelyAtMost].
	LastHour map[outbox.State]int64
	Enqueued int64
}

// OutcomeCount is a number of deliveries whose last outcome is the same.
type OutcomeCount struct {
	Relay, Class string
	Code         int
	Enhanced     string
	Reply        string // one of them
	Deliveries   int64
}

// Overview reads the state of every route. Its cost grows with the unfinished deliveries and with what ended in the last hour.
// Deliveries that expire within soon count as expiring.
func (s *Store) Overview(ctx context.Context, soon time.Duration) (Overview, error) {
	o, err := s.overview(ctx, soon)
	if err != nil {
		return Overview{}, s.failed(ctx, err, "read the state of the routes")
	}
	return o, nil
}

func (s *Store) overview(ctx context.Context, soon time.Duration) (o Overview, err error) {
	clocks, err := collect[timestamp](ctx, s.db, s.queries.get("clock"))
	if err != nil {
		return o, err
	}
	o.Now = clocks[0].Time
	now, hour := bindTime(o.Now), bindTime(o.Now.Add(-time.Hour))
	routes := make(map[string]*RouteState)
	at := func(name string) *RouteState {
		if routes[name] == nil {
			routes[name] = &RouteState{Route: name, LastHour: make(map[outbox.State]int64)}
		}
		return routes[name]
	}
	type queued struct {
		Route                              string
		Due, Scheduled, Deferred, Expiring int64
		Oldest                             timestamp
	}
	waiting, err := collect[queued](ctx, s.db, s.queries.get("overview_queued"), now, bindTime(o.Now.Add(soon)))
	if err != nil {
		return o, err
	}
	for _, q := range waiting {
		r := at(q.Route)
		r.Due, r.Scheduled, r.Deferred, r.Expiring, r.OldestDue = q.Due, q.Scheduled, q.Deferred, q.Expiring, q.Oldest.Time
	}
	type open struct {
		Route      string
		State      outbox.State
		Deliveries int64
		Oldest     timestamp
	}
	others, err := collect[open](ctx, s.db, s.queries.get("overview_open"))
	if err != nil {
		return o, err
	}
	for _, other := range others {
		r := at(other.Route)
		switch other.State { //nolint:exhaustive // the statement asks for these
		case outbox.StateSending:
			r.Sending = other.Deliveries
		case outbox.StateUncertain:
			r.Uncertain = other.Deliveries
		case outbox.StateHeld:
			r.Held, r.OldestHeld = other.Deliveries, other.Oldest.Time
		}
	}
	for _, state := range outbox.States() {
		if !state.Terminal() {
			continue
		}
		counts, err := collect[Count](ctx, s.db, s.queries.get("overview_ended"), string(state), hour, LatelyAtMost)
		if err != nil {
			return o, err
		}
		total := int64(0)
		for _, c := range counts {
			at(c.Route).LastHour[state] = c.Deliveries
			total += c.Deliveries
		}
		o.More = o.More || total >= LatelyAtMost
	}
	fresh, err := collect[Count](ctx, s.db, s.queries.get("overview_enqueued"), firstID(o.Now.Add(-time.Hour)), LatelyAtMost)
	if err != nil {
		return o, err
	}
	for _, c := range fresh {
		if routes[c.Route] != nil {
			routes[c.Route].Enqueued = c.Deliveries
		}
	}
	if o.Outcomes, err = collect[OutcomeCount](ctx, s.db, s.queries.get("overview_outcomes"), hour); err != nil {
		return o, err
	}
	type lapsed struct {
		Lapsed int64
		Oldest timestamp
	}
	gone, err := collect[lapsed](ctx, s.db, s.queries.get("overview_lapsed"), bindTime(o.Now.Add(-time.Minute)))
	if err != nil {
		return o, err
	}
	o.Lapsed, o.OldestLapse = gone[0].Lapsed, gone[0].Oldest.Time
	for _, r := range routes {
		o.Routes = append(o.Routes, *r)
	}
	slices.SortFunc(o.Routes, func(a, b RouteState) int { return strings.Compare(a.Route, b.Route) })
	return o, nil
}

// firstID is the least id of a message that was made at a time: ids begin with the milliseconds (RFC 9562 §5.7).
func firstID(t time.Time) string {
	const digits = "0123456789abcdef"
	text := []byte("00000000000000000000000000000000")
	ms := uint64(max(0, t.UnixMilli()))
	for i := 11; i >= 0; i-- {
		text[i] = digits[ms&15]
		ms >>= 4
	}
	return dashed(string(text))
}
