package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
)

// Heartbeat records that a dispatcher lives, by the clock of the database. It informs people; leases do not depend on it. A
// dispatcher without a heartbeat for a day is forgotten.
func (s *Store) Heartbeat(ctx context.Context, h queue.Heartbeat) error {
	if h.ID == "" {
		return errors.New("heartbeat: no id given")
	}
	list, err := writeTold(h, clean)
	if err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	args := []any{clean(h.ID), clean(h.Host), h.PID, clean(h.Version), list}
	beat := func() error {
		return s.atomically(ctx, func(c conn) error {
			if _, err := c.ExecContext(ctx, s.queries.get("heartbeat"), args...); err != nil || s.dialect == schema.Postgres {
				return err
			}
			_, err := c.ExecContext(ctx, s.queries.get("forget_dispatchers"))
			return err
		})
	}
	err = beat()
	if unstorable(err) { // the health of a relay may quote it
		if args[4], err = writeTold(h, func(s string) string { return ascii(clean(s)) }); err != nil {
			return fmt.Errorf("heartbeat: %w", err)
		}
		err = beat()
	}
	if err != nil {
		return s.failed(ctx, err, "heartbeat")
	}
	return nil
}

// told is what the column relays holds: what a dispatcher says of its relays, and its faults.
type told struct {
	Relays map[string]queue.RelayHealth `json:"relays"`
	Faults []queue.Fault                `json:"faults,omitempty"`
}

// writeTold returns what the column relays gets. text makes each text storable.
func writeTold(h queue.Heartbeat, text func(s string) string) (string, error) {
	t := told{Relays: make(map[string]queue.RelayHealth, len(h.Relays)), Faults: make([]queue.Fault, len(h.Faults))}
	for name, r := range h.Relays {
		r.State, r.Class, r.Reason = text(r.State), text(r.Class), text(r.Reason)
		r.Routes = slices.Clone(r.Routes)
		for i := range r.Routes {
			r.Routes[i] = text(r.Routes[i])
		}
		t.Relays[text(name)] = r
	}
	for i, f := range h.Faults {
		f.Kind, f.Relay, f.Route, f.Error = text(f.Kind), text(f.Relay), text(f.Route), text(f.Error)
		t.Faults[i] = f
	}
	list, err := json.Marshal(t)
	return string(list), err
}

// readTold reads the column relays. Earlier versions wrote the state of each relay in words, such as "offline: connection lost".
func readTold(text []byte) (t told) {
	if json.Unmarshal(text, &t) == nil && t.Relays != nil {
		return t
	}
	t = told{Relays: make(map[string]queue.RelayHealth)}
	for name, words := range readMap(text) {
		state, reason, _ := strings.Cut(words, ": ")
		t.Relays[name] = queue.RelayHealth{State: state, Reason: reason}
	}
	return t
}

// Retire forgets a dispatcher that stopped. An unknown one is no error.
func (s *Store) Retire(ctx context.Context, id string) error {
	if _, err := s.db.ExecContext(ctx, s.queries.get("retire"), clean(id)); err != nil {
		return s.failed(ctx, err, "retire %s", id)
	}
	return nil
}

// Dispatcher is a dispatcher with a heartbeat within a day.
type Dispatcher struct {
	ID, Host string
	PID      int
	Version  string
	// Relays describes each of its relays by name. Faults lists what only a person can mend, apart from the relays.
	Relays map[string]queue.RelayHealth
	Faults []queue.Fault
	// StartedAt is its first heartbeat and SeenAt its last; Silent is the time since then. All are by the clock of the
	// database.
	StartedAt, SeenAt time.Time
	Silent            time.Duration
}

// Dispatchers lists the dispatchers that sent a heartbeat within a day and did not retire, the oldest first. One that is silent
// for longer than a minute has probably died.
func (s *Store) Dispatchers(ctx context.Context) ([]Dispatcher, error) {
	type row struct {
		ID, Host, Version string
		PID               int
		StartedAt         timestamp `db:"started_at"`
		SeenAt            timestamp `db:"seen_at"`
		Relays            []byte
		Silent            float64
	}
	rows, err := collect[row](ctx, s.db, s.queries.get("dispatchers"))
	if err != nil {
		return nil, s.failed(ctx, err, "list the dispatchers")
	}
	list := make([]Dispatcher, len(rows))
	for i, r := range rows {
		list[i] = Dispatcher{
			ID: r.ID, Host: r.Host, PID: r.PID, Version: r.Version, StartedAt: r.StartedAt.Time, SeenAt: r.SeenAt.Time,
			Silent: seconds(r.Silent),
		}
		t := readTold(r.Relays)
		list[i].Relays, list[i].Faults = t.Relays, t.Faults
	}
	return list, nil
}
