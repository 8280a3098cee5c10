// Package store keeps the deliveries of outbox in SQLite or PostgreSQL and moves them from state to state.
//
// A dispatcher holds leases. A lease has a token that is new at every claim, and an end by the clock of the database. Every write
// of a holder names the token, so a holder whose lease went to another changes nothing. The call returns the refs that it did not
// change, and the caller must not act on them. The clock of the application is never asked.
//
// No row can make a claim fail. A message that cannot be read is held, with the reason.
//
// The verbs of operators ([Store.Requeue], [Store.Cancel], [Store.Purge] and others) take the same [Filter] as [Store.List] and
// translate it to the same predicate: they change what List lists. They work in batches and may be interrupted between two of
// them. Each is recorded in outbox_actions.
//
// A Store is safe for concurrent use, by any number of goroutines and processes.
package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"os/user"
	"sync"

	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/pgschema"
	"github.com/outboxmail/outbox/internal/sqlstate"
	"github.com/outboxmail/outbox/schema"
)

// Store reads and writes the tables of one database.
type Store struct {
	db      *sqlx.DB
	dialect schema.Dialect
	queries queries
	actor   string
	schema  string         // of PostgreSQL; "" means the search path
	outbox  *outbox.Outbox // enqueues the messages of the store itself
	file    file           // of SQLite
	claims  sync.Map       // *atomic.Uint64 by relay and routes: the number of claims, for the turns of the priorities
}

// Option changes a default of [New].
type Option func(*Store) error

// Actor is the name that the audit gives for the verbs of operators. Defaults to the user and host of the process.
func Actor(name string) Option {
	return func(s *Store) error {
		if name == "" {
			return errors.New("the name of an actor must not be empty")
		}
		s.actor = name
		return nil
	}
}

// Schema names the PostgreSQL schema that holds the tables, as [schema.In] does for migrations. Statements name it themselves, so
// nothing is set on the connection. It is an error on SQLite. Defaults to the search path of the connection.
func Schema(name string) Option {
	return func(s *Store) error {
		if s.dialect == schema.SQLite {
			return errors.New("SQLite has no schemas: remove store.Schema")
		}
		s.schema = name
		return pgschema.Check(name)
	}
}

// New returns a Store for a pool of the application's own: of modernc.org/sqlite or mattn/go-sqlite3 with [schema.SQLite], of
// lib/pq or pgx/stdlib with [schema.Postgres]. It does not touch the database; see [Store.Check].
//
// A dispatcher uses three or more connections at once, each for a moment. database/sql keeps two idle ones and opens further
// ones anew for every call. Set SetMaxIdleConns of your own pool to 8 or more; store/sqlite and store/postgres do. On SQLite a
// batch of outcomes is recorded row by row. A connection of store/sqlite compiles the statement once, other connections compile
// it for each row.
func New(db *sql.DB, d schema.Dialect, opts ...Option) (*Store, error) {
	if db == nil {
		return nil, errors.New("store: no database given")
	}
	if d != schema.SQLite && d != schema.Postgres {
		return nil, fmt.Errorf("store: unknown dialect %q: use schema.SQLite or schema.Postgres", string(d))
	}
	q, err := loadQueries(d)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	s := &Store{db: sqlx.NewDb(db, string(d)), dialect: d, queries: q, actor: processName()}
	for _, opt := range opts {
		if err := opt(s); err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
	}
	for name, statement := range s.queries {
		s.queries[name] = s.qualify(statement)
	}
	if s.outbox == nil {
		if s.outbox, err = outbox.New(outbox.Config{Schema: s.schema}); err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
	}
	return s, nil
}

// qualify prefixes table names with the store's schema.
func (s *Store) qualify(statement string) string { return pgschema.Qualify(statement, s.schema) }

// processName is the default of [Actor].
func processName() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// Dialect returns the dialect of the database.
func (s *Store) Dialect() schema.Dialect { return s.dialect }

// Check returns nil if the database answers and its tables are of the version that this program knows; see [schema.Check].
func (s *Store) Check(ctx context.Context) error {
	var opts []schema.Option
	if s.schema != "" {
		opts = append(opts, schema.In(s.schema))
	}
	return schema.Check(ctx, s.db.DB, s.dialect, opts...)
}

// conn runs statements: it is the pool or a transaction.
type conn interface {
	sqlx.QueryerContext
	sqlx.ExecerContext
}

// conflicts is how often a statement is tried when other transactions break it off.
const conflicts = 5

// atomically runs fn in one transaction and commits it unless fn fails. Every change of more than one table goes through it.
// PostgreSQL may break the transaction off in favour of another, or because of a time limit of the role or the database. Then
// all of it is repeated without time limits: they are meant for the application's queries, and an outcome must be recorded.
func (s *Store) atomically(ctx context.Context, fn func(c conn) error) error {
	if s.dialect == schema.SQLite {
		return s.immediately(ctx, fn)
	}
	err := s.committed(ctx, fn)
	for n := 1; n < conflicts && conflict(ctx, err); n++ {
		err = s.committed(ctx, func(c conn) error {
			if _, err := c.ExecContext(ctx, s.queries.get("no_time_limit")); err != nil {
				return err
			}
			return fn(c)
		})
	}
	return err
}

// committed runs fn in a transaction of PostgreSQL. It is READ COMMITTED whatever the default of the database: the statements
// lock their rows, and would fail to serialise at a stricter level.
func (s *Store) committed(ctx context.Context, fn func(c conn) error) error {
	tx, err := s.db.BeginTxx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after the commit
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// immediately runs fn in a transaction of SQLite that takes the write lock at once. A transaction that begins by reading cannot
// wait for another writer (SQLITE_BUSY_SNAPSHOT).
func (s *Store) immediately(ctx context.Context, fn func(c conn) error) (err error) {
	c, err := s.db.Connx(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := c.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		// A driver also fails if ctx ended after the lock was taken. The lock must not go back to the pool. Without a transaction the
		// ROLLBACK fails and does no harm.
		_, _ = c.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		// A connection that cannot roll back must not go back to the pool.
		if _, rollback := c.ExecContext(context.WithoutCancel(ctx), "ROLLBACK"); rollback != nil {
			_ = c.Raw(func(any) error { return driver.ErrBadConn })
		}
	}()
	if err := fn(c); err != nil {
		return err
	}
	_, err = c.ExecContext(ctx, "COMMIT")
	return err
}

// change runs one statement that changes rows, and returns the rows that it answers. On SQLite it runs in a transaction,
// because writers wait for one another when they begin. On PostgreSQL it runs by itself, which saves two round trips. If the
// isolation or a time limit of the database breaks it off, it is repeated in a transaction.
func change[T any](ctx context.Context, s *Store, name string, args ...any) (list []T, err error) {
	query := s.queries.get(name)
	if s.dialect == schema.Postgres {
		if list, err = collect[T](ctx, s.db, query, args...); !conflict(ctx, err) {
			return list, err
		}
	}
	err = s.atomically(ctx, func(c conn) (err error) {
		list, err = collect[T](ctx, c, query, args...)
		return err
	})
	return list, err
}

// conflict reports whether PostgreSQL broke a statement off in favour of another, or because of a time limit that is not the
// caller's. Nothing was changed then.
func conflict(ctx context.Context, err error) bool {
	switch sqlstate.Of(err) {
	case sqlstate.SerializationFailure, sqlstate.DeadlockDetected, sqlstate.LockNotAvailable:
		return true
	case sqlstate.QueryCanceled:
		return ctx.Err() == nil
	default:
		return false
	}
}

// collect runs a query and scans every row into a T.
func collect[T any](ctx context.Context, c conn, query string, args ...any) ([]T, error) {
	var list []T
	if err := sqlx.SelectContext(ctx, c, &list, query, args...); err != nil {
		return nil, err
	}
	return list, nil
}

// affected runs a statement and returns how many rows it changed.
func affected(ctx context.Context, c conn, query string, args ...any) (int64, error) {
	res, err := c.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
