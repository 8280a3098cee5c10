package sqlx_test

import (
	"context"
	"testing"

	"github.com/jmoiron/sqlx"
	_ "github.com/lib/pq" // the driver "postgres"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/examples/integrations/internal/trial"
	shop "github.com/outboxmail/outbox/examples/integrations/sqlx"
	"github.com/outboxmail/outbox/schema"
)

func TestPlaceOrder(t *testing.T) {
	t.Parallel()
	for d, open := range map[schema.Dialect]func(t *testing.T) *sqlx.DB{
		schema.Postgres: func(t *testing.T) *sqlx.DB {
			t.Helper()
			return sqlx.NewDb(trial.Open(t, "postgres", trial.Postgres(t)), "postgres")
		},
		schema.SQLite: func(t *testing.T) *sqlx.DB {
			t.Helper()
			return sqlx.NewDb(trial.Open(t, "sqlite", "file:"+trial.SQLite(t)+"?_txlock=immediate"), "sqlite")
		},
	} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			db := open(t)
			trial.Orders(t, db.DB, d, func(ctx context.Context, customer string) error { return shop.PlaceOrder(ctx, db, customer) })
			trial.Verbs(t, db.DB, func(ctx context.Context, fn func(tx outbox.Tx) error) error {
				tx, err := db.BeginTxx(ctx, nil)
				if err != nil {
					return err
				}
				defer func() { _ = tx.Rollback() }()
				if err := fn(tx); err != nil {
					return err
				}
				return tx.Commit()
			})
		})
	}
}
