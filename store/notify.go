package store

import (
	"context"
	"errors"

	"github.com/outboxmail/outbox/schema"
)

// ErrNoNotify says that the database has no notifications. SQLite needs none: see store/sqlite.Watch.
var ErrNoNotify = errors.New("SQLite has no notifications: watch the file instead")

// EnableNotify makes PostgreSQL notify those who listen (see store/postgres.Watch) when a transaction that enqueues commits.
// It is off at first, because a notification takes a lock of the whole server at commit: every transaction that enqueues
// pays for it, and thousands of them in a second feel it. Polling costs the application nothing. It needs the rights of
// the table's owner, and may be repeated. It returns [ErrNoNotify] on SQLite.
func (s *Store) EnableNotify(ctx context.Context) error { return s.setNotify(ctx, "enable_notify") }

// DisableNotify ends what [Store.EnableNotify] began. It may be repeated.
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
