package store_test

import (
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
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "app.db"), sqlite.RelaxedSync())
	return opened(t, db, err)
}

func openPQ(t *testing.T) *sqlx.DB {
	t.Helper()
	db, err := postgres.Open(pgtest.DSN(t))
	return opened(t, db, err)
}

func openPGX(t *testing.T) *sqlx.DB {
	t.Helper()
	db, err := sqlx.Open("pgx", pgtest.DSN(t))
	return opened(t, db, err)
}

func opened(t *testing.T, db *sqlx.DB, err error) *sqlx.DB {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
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
	s, err := store.New(db)
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Migrate(t.Context(), db.DB, s.Dialect()); err != nil {
		t.Fatal(err)
	}
	return s
}
