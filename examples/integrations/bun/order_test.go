package bun_test

import (
	"context"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/dialect/sqlitedialect"

	"github.com/outboxmail/outbox"
	shop "github.com/outboxmail/outbox/examples/integrations/bun"
	"github.com/outboxmail/outbox/examples/integrations/internal/trial"
	"github.com/outboxmail/outbox/schema"
)

// databases opens each database as bun's documentation says.
var databases = map[schema.Dialect]func(t *testing.T) *bun.DB{
	schema.Postgres: func(t *testing.T) *bun.DB {
		t.Helper()
		return bun.NewDB(trial.Open(t, "pgx", trial.Postgres(t)), pgdialect.New())
	},
	schema.SQLite: func(t *testing.T) *bun.DB {
		t.Helper()
		return bun.NewDB(trial.Open(t, "sqlite", "file:"+trial.SQLite(t)+"?_txlock=immediate"), sqlitedialect.New())
	},
}

func TestPlaceOrder(t *testing.T) {
	t.Parallel()
	for d, open := range databases {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			db := open(t)
			trial.Orders(t, db.DB, d, func(ctx context.Context, customer string) error { return shop.PlaceOrder(ctx, db, customer) })
			trial.Verbs(t, db.DB, func(ctx context.Context, fn func(tx outbox.Tx) error) error {
				return db.RunInTx(ctx, nil, func(_ context.Context, tx bun.Tx) error { return fn(tx.Tx) })
			})
		})
	}
}
