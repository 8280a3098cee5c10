package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outboxmail/outbox/queue"
)

// maxPause is the longest pause of a relay. Both databases can add it to a date.
const maxPause = 100 * 365 * 24 * time.Hour

// PauseRelay keeps every dispatcher of the database from claiming for a relay for d, by the clock of the database. Deliveries
// that are being sent go on. A longer pause stays as it is. [Store.ResumeRelay] ends any pause. Dispatchers call it when a
// quota is used up. It is not recorded in the audit; see [Store.PauseRelayByOperator].
func (s *Store) PauseRelay(ctx context.Context, name string, d time.Duration, reason string) error {
	if err := checkPause(name, d); err != nil {
		return fmt.Errorf("pause a relay: %w", err)
	}
	pause := func() error {
		return s.atomically(ctx, func(c conn) error {
			_, err := s.pauseRelay(ctx, c, name, d, reason, nil)
			return err
		})
	}
	err := pause()
	if unstorable(err) { // the reason is what the relay said
		reason = ascii(clean(reason))
		err = pause()
	}
	if err != nil {
		return s.failed(ctx, err, "pause relay %s", name)
	}
	return nil
}

// PauseRelayByOperator is [Store.PauseRelay] for people: it records the actor, in the pause and in the audit. It reports false
// if a longer pause stands.
func (s *Store) PauseRelayByOperator(ctx context.Context, name string, d time.Duration, reason string) (bool, error) {
	if err := checkPause(name, d); err != nil {
		return false, fmt.Errorf("pause a relay: %w", err)
	}
	var n int64
	err := s.atomically(ctx, func(c conn) (err error) {
		if n, err = s.pauseRelay(ctx, c, name, d, reason, &s.actor); err != nil || n == 0 {
			return err
		}
		_, err = s.audit(ctx, c, "pause-relay", relaySubject{clean(name)}, n)
		return err
	})
	if err != nil {
		return false, s.failed(ctx, err, "pause relay %s", name)
	}
	return n > 0, nil
}

func checkPause(name string, d time.Duration) error {
	switch {
	case name == "":
		return errors.New("no relay given")
	case d <= 0 || d > maxPause:
		return fmt.Errorf("%v is no time to pause for: give more than 0 and at most %v", d, maxPause)
	default:
		return nil
	}
}

func (s *Store) pauseRelay(ctx context.Context, c conn, name string, d time.Duration, reason string, by *string) (int64, error) {
	return affected(ctx, c, s.queries.get("pause_relay"), clean(name), s.interval(d), clean(reason), by)
}

// ResumeRelay ends the pause of a relay, whoever set it, and reports whether there was one. It is recorded in the audit.
func (s *Store) ResumeRelay(ctx context.Context, name string) (bool, error) {
	name = clean(name)
	var n int64
	err := s.atomically(ctx, func(c conn) (err error) {
		if n, err = affected(ctx, c, s.queries.get("resume_relay"), name); err != nil || n == 0 {
			return err
		}
		_, err = s.audit(ctx, c, "resume-relay", relaySubject{name}, n)
		return err
	})
	if err != nil {
		return false, s.failed(ctx, err, "resume relay %s", name)
	}
	return n > 0, nil
}

// relaySubject names a relay in the audit, in the words of a [Filter].
type relaySubject struct {
	Relay string `json:"relay"`
}

// RelayStates lists the shared state of each relay that has or had a rate or a pause, by name. A relay that is missing is not
// paused.
func (s *Store) RelayStates(ctx context.Context) ([]queue.RelayState, error) {
	type row struct {
		Name     string
		Paused   float64
		PausedAt timestamp `db:"paused_at"`
		PausedBy string    `db:"paused_by"`
		Reason   string
	}
	rows, err := collect[row](ctx, s.db, s.queries.get("relay_states"))
	if err != nil {
		return nil, s.failed(ctx, err, "list the relays")
	}
	list := make([]queue.RelayState, len(rows))
	for i, r := range rows {
		list[i] = queue.RelayState{Name: r.Name}
		if r.Paused > 0 {
			list[i] = queue.RelayState{
				Name: r.Name, Paused: seconds(r.Paused), Since: r.PausedAt.Time, By: r.PausedBy, Reason: r.Reason,
			}
		}
	}
	return list, nil
}
