package store

import (
	"context"
	"errors"
	"time"

	"github.com/outboxmail/outbox"
)

// Stats says how much is where.
type Stats struct {
	// Counts has one entry for each route and state that holds a delivery.
	Counts []Count
	// Due, Scheduled and Deferred divide what is queued: due now, for later, and for later after an attempt.
	Due, Scheduled, Deferred int64
	// OldestDue is the earliest due time of what is queued, zero when nothing is.
	OldestDue time.Time
	// Paused lists the routes that an operator holds back.
	Paused []Pause
}

// Count is a number of deliveries.
type Count struct {
	Route      string
	State      outbox.State
	Deliveries int64
}

// Pause is a route that is held back, since when, by whom and why.
type Pause struct {
	Route  string
	Since  time.Time
	By     string
	Reason string
}

// Stats counts the deliveries by route and state.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	var st Stats
	err := func() (err error) {
		if st.Counts, err = collect[Count](ctx, s.db, s.queries.get("counts")+" ORDER BY 1, 2"); err != nil {
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

// Pause holds a route back: its deliveries are not claimed until [Store.Resume]; those that are being sent go on. Pausing
// a route again changes the reason.
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

// Resume lets a paused route go on, and says whether it was paused.
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
