package store

import (
	"context"
	"errors"
	"time"

	"github.com/outboxmail/outbox"
)

// Stats counts the deliveries of a queue.
type Stats struct {
	// Counts has one entry for each route and state with deliveries. More names the terminal states of which only the newest
	// [CountedAtMost] deliveries were counted.
	Counts []Count
	More   []outbox.State
	// Due, Scheduled and Deferred count the queued deliveries: due now, due later, and due later after an attempt.
	Due, Scheduled, Deferred int64
	// OldestDue is the earliest due time of a queued delivery, zero for none.
	OldestDue time.Time
	// Minutes counts what finished in each of the last minutes. Minutes[0] is the last one.
	Minutes [5]Minute
	// Paused lists the routes that an operator holds back.
	Paused []Pause
}

// CountedAtMost is how many finished deliveries of each state [Store.Stats] counts.
const CountedAtMost = 10_000

// Minute counts the deliveries that finished in a minute: sent, or given up in any way.
type Minute struct {
	Sent, Unsent int64
}

// Count is a number of deliveries.
type Count struct {
	Route      string
	State      outbox.State
	Deliveries int64
}

// Pause is a paused route.
type Pause struct {
	Route  string
	Since  time.Time
	By     string
	Reason string
}

// Stats counts the deliveries of the queue. Its cost grows with the unfinished deliveries. Of each terminal state it counts at
// most [CountedAtMost].
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	var st Stats
	err := func() (err error) {
		if st.Counts, st.More, err = s.counts(ctx); err != nil {
			return err
		}
		if st.Minutes, err = s.minutes(ctx); err != nil {
			return err
		}
		type waiting struct {
			Due, Scheduled, Deferred int64
			Oldest                   timestamp
		}
		w, err := collect[waiting](ctx, s.db, s.queries.get("waiting"))
		if err != nil {
			return err
		}
		st.Due, st.Scheduled, st.Deferred, st.OldestDue = w[0].Due, w[0].Scheduled, w[0].Deferred, w[0].Oldest.Time
		type pause struct {
			Route    string
			PausedAt timestamp `db:"paused_at"`
			PausedBy string    `db:"paused_by"`
			Reason   string
		}
		pauses, err := collect[pause](ctx, s.db, s.queries.get("pauses"))
		for _, p := range pauses {
			st.Paused = append(st.Paused, Pause{Route: p.Route, Since: p.PausedAt.Time, By: p.PausedBy, Reason: p.Reason})
		}
		return err
	}()
	if err != nil {
		return Stats{}, s.failed(ctx, err, "read the statistics")
	}
	return st, nil
}

// counts asks for one delivery more than it returns, to learn whether there are more.
func (s *Store) counts(ctx context.Context) (counts []Count, more []outbox.State, err error) {
	if counts, err = collect[Count](ctx, s.db, s.queries.get("counts"), CountedAtMost+1); err != nil {
		return nil, nil, err
	}
	total := make(map[outbox.State]int64)
	for _, c := range counts {
		total[c.State] += c.Deliveries
	}
	for _, state := range outbox.States() {
		if !state.Terminal() || total[state] <= CountedAtMost {
			continue
		}
		more = append(more, state)
		for i := range counts { // the one too many
			if counts[i].State == state {
				counts[i].Deliveries--
				break
			}
		}
	}
	return counts, more, nil
}

// minutes counts what finished lately.
func (s *Store) minutes(ctx context.Context) (minutes [5]Minute, err error) {
	type row struct {
		Ago        int
		Deliveries int64
	}
	for _, state := range outbox.States() {
		if !state.Terminal() {
			continue
		}
		rows, err := collect[row](ctx, s.db, s.queries.get("minutes"), string(state))
		if err != nil {
			return minutes, err
		}
		for _, r := range rows {
			switch m := &minutes[min(max(r.Ago, 0), len(minutes)-1)]; state {
			case outbox.StateSent:
				m.Sent += r.Deliveries
			default:
				m.Unsent += r.Deliveries
			}
		}
	}
	return minutes, nil
}

// Pause keeps the deliveries of a route from being claimed until [Store.Resume]. Those that are being sent go on. Pausing a
// route again changes the reason.
func (s *Store) Pause(ctx context.Context, route, reason string) error {
	if route == "" {
		return errors.New("pause: no route given")
	}
	route, reason = clean(route), clean(reason)
	err := s.atomically(ctx, func(c conn) error {
		if _, err := c.ExecContext(ctx, s.queries.get("pause"), route, s.actor, reason); err != nil {
			return err
		}
		_, err := s.audit(ctx, c, "pause", Filter{Routes: []string{route}}, 1)
		return err
	})
	if err != nil {
		return s.failed(ctx, err, "pause %s", route)
	}
	return nil
}

// Resume ends the pause of a route and reports whether there was one.
func (s *Store) Resume(ctx context.Context, route string) (bool, error) {
	route = clean(route)
	var n int64
	err := s.atomically(ctx, func(c conn) (err error) {
		if n, err = affected(ctx, c, s.queries.get("resume"), route); err != nil || n == 0 {
			return err
		}
		_, err = s.audit(ctx, c, "resume", Filter{Routes: []string{route}}, n)
		return err
	})
	if err != nil {
		return false, s.failed(ctx, err, "resume %s", route)
	}
	return n > 0, nil
}
