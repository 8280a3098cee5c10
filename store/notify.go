package store

import (
	"context"
	"errors"

	"github.com/outboxmail/outbox/schema"
)

// ErrNoNotify says that SQLite has no notifications. Use store/sqlite.Watch instead.
var ErrNoNotify = errors.New("SQLite has no notifications: watch the file instead")

// EnableNotify makes PostgreSQL notify listeners (see store/postgres.Watch) when a transaction that enqueues commits. It is off
// by default: a notification takes a lock of the whole server at every commit that enqueues, which matters at thousands of
// commits a second. Polling costs the application nothing. The call needs the rights of the table's owner and may be repeated.
// It returns [ErrNoNotify] on SQLite.
func (s *Store) EnableNotify(ctx context.Context) error { return s.setNotify(ctx, "enable_notify") }

// DisableNotify undoes [Store.EnableNotify]. It may be repeated.
func (s *Store) DisableNotify(ctx context.Context) error { return s.setNotify(ctx, "disable_notify") }

func (s *Store) setNotify(ctx context.Context, name string) error {
	if s.dialect == schema.SQLite {
		return ErrNoNotify
	}
	if _, err := s.db.ExecContext(ctx, s.queries.get(name)); err != nil {
		return s.failed(ctx, err, "set up notifications")
	}
	return nil
}
