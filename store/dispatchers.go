package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	relays := make(map[string]string, len(h.Relays))
	for name, health := range h.Relays {
		relays[clean(name)] = clean(health)
	}
	list, err := json.Marshal(relays)
	if err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	args := []any{clean(h.ID), clean(h.Host), h.PID, clean(h.Version), string(list)}
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
		for name, health := range relays {
			relays[name] = ascii(health)
		}
		if list, err = json.Marshal(relays); err != nil {
			return fmt.Errorf("heartbeat: %w", err)
		}
		args[4] = string(list)
		err = beat()
	}
	if err != nil {
		return s.failed(ctx, err, "heartbeat")
	}
	return nil
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
	// Relays has the health of each of its relays.
	Relays map[string]string
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
		list[i].Relays = readMap(r.Relays)
	}
	return list, nil
}
