package databasesql_test

import (
	"context"
	"database/sql"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "github.com/lib/pq"              // the driver "postgres"
	_ "github.com/mattn/go-sqlite3"    // the driver "sqlite3"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/examples/integrations/databasesql"
	"github.com/outboxmail/outbox/examples/integrations/internal/trial"
	"github.com/outboxmail/outbox/schema"
)

// The drivers that people have, each opened as its own documentation says and not by package store.
func TestPlaceOrder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		driver  string
		dialect schema.Dialect
		dsn     func(t *testing.T) string
	}{
		{"postgres", schema.Postgres, trial.Postgres},
		{"pgx", schema.Postgres, trial.Postgres},
		{"pgx", schema.Postgres, func(t *testing.T) string {
			t.Helper()
			return trial.Postgres(t) + "&default_query_exec_mode=simple_protocol"
		}},
		{"sqlite", schema.SQLite, func(t *testing.T) string {
			t.Helper()
			return "file:" + trial.SQLite(t) + "?_txlock=immediate&_pragma=busy_timeout(10000)"
		}},
		{"sqlite3", schema.SQLite, func(t *testing.T) string {
			t.Helper()
			return "file:" + trial.SQLite(t) + "?_txlock=immediate&_busy_timeout=10000"
		}},
	} {
		t.Run(c.driver, func(t *testing.T) {
			t.Parallel()
			db := trial.Open(t, c.driver, c.dsn(t))
			trial.Orders(t, db, c.dialect, func(ctx context.Context, customer string) error {
				return databasesql.PlaceOrder(ctx, db, customer)
			})
			trial.Verbs(t, db, func(ctx context.Context, fn func(tx outbox.Tx) error) error {
				return outbox.Do(ctx, db, func(tx *sql.Tx) error { return fn(tx) })
			})
		})
	}
}
