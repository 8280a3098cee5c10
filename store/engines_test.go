package store_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
	"github.com/outboxmail/outbox/store/sqlite"
)

// engine is a database and a driver. Its open returns an empty database for one test.
type engine struct {
	name string
	open func(t *testing.T) *sqlx.DB
}

func engines() []engine {
	return []engine{
		{"sqlite", openSQLite},
		{"lib/pq", openPQ},
		{"pgx/stdlib", openPGX},
	}
}

func openSQLite(t *testing.T) *sqlx.DB {
	t.Helper()
	return opened(t, schema.SQLite)(sqlite.Open(filepath.Join(t.TempDir(), "app.db"), sqlite.RelaxedSync()))
}

func openPQ(t *testing.T) *sqlx.DB {
	t.Helper()
	return opened(t, schema.Postgres)(postgres.Open(pgtest.DSN(t)))
}

func openPGX(t *testing.T) *sqlx.DB {
	t.Helper()
	return opened(t, schema.Postgres)(sql.Open("pgx", pgtest.DSN(t)))
}

// opened takes the result of opening a pool, and closes the pool when the test ends. The name of the driver says which dialect
// it speaks.
func opened(t *testing.T, d schema.Dialect) func(db *sql.DB, err error) *sqlx.DB {
	t.Helper()
	return func(db *sql.DB, err error) *sqlx.DB {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
		return sqlx.NewDb(db, string(d))
	}
}

// each runs a test on every engine, with a store over empty tables.
func each(t *testing.T, test func(t *testing.T, s *store.Store, db *sqlx.DB)) {
	t.Helper()
	for _, e := range engines() {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			db := e.open(t)
			test(t, migrated(t, db), db)
		})
	}
}

// migrated creates the tables and returns a store over them.
func migrated(t *testing.T, db *sqlx.DB) *store.Store {
	t.Helper()
	s, err := store.New(db.DB, schema.Dialect(db.DriverName()))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Migrate(t.Context(), db.DB, s.Dialect()); err != nil {
		t.Fatal(err)
	}
	return s
}
