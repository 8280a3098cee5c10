package sqlc_test

import (
	"context"
	"database/sql"
	"testing"

	_ "github.com/lib/pq" // the driver "postgres"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/examples/integrations/internal/trial"
	"github.com/outboxmail/outbox/examples/integrations/sqlc"
	"github.com/outboxmail/outbox/outboxtest"
	"github.com/outboxmail/outbox/schema"
)

func TestPlaceOrder(t *testing.T) {
	t.Parallel()
	for d, open := range map[schema.Dialect]func(t *testing.T) *sql.DB{
		schema.Postgres: func(t *testing.T) *sql.DB { t.Helper(); return trial.Open(t, "postgres", trial.Postgres(t)) },
		schema.SQLite: func(t *testing.T) *sql.DB {
			t.Helper()
			return trial.Open(t, "sqlite", "file:"+trial.SQLite(t)+"?_txlock=immediate")
		},
	} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			ctx, db := t.Context(), open(t)
			trial.Orders(t, db, d, func(ctx context.Context, customer string) error { return sqlc.PlaceOrder(ctx, db, customer) })
			trial.Verbs(t, db, func(ctx context.Context, fn func(tx outbox.Tx) error) error {
				return outbox.Do(ctx, db, func(tx *sql.Tx) error { return fn(outbox.InTx(sqlc.DBTX(tx))) })
			})

			welcome := outboxtest.Match{To: "eva@example.org", Subject: "Welcome"}
			if err := sqlc.EnqueueWelcome(ctx, db, "eva@example.org"); err == nil {
				t.Error("a pool was taken for a transaction")
			}
			outboxtest.RequireNotEnqueued(t, db, welcome)
			err := outbox.Do(ctx, db, func(tx *sql.Tx) error { return sqlc.EnqueueWelcome(ctx, tx, "eva@example.org") })
			if err != nil {
				t.Fatal(err)
			}
			outboxtest.RequireEnqueued(t, db, welcome)
		})
	}
}
