package ent_test

import (
	"context"
	"database/sql"
	"testing"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/outboxmail/outbox"
	shop "github.com/outboxmail/outbox/examples/integrations/ent"
	"github.com/outboxmail/outbox/examples/integrations/ent/ent"
	"github.com/outboxmail/outbox/examples/integrations/internal/trial"
	"github.com/outboxmail/outbox/schema"
)

func TestPlaceOrder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		dialect schema.Dialect
		open    func(t *testing.T) *sql.DB
		options []ent.Option
	}{
		{"postgres", schema.Postgres, postgres, nil},
		{"postgres with Debug", schema.Postgres, postgres, []ent.Option{ent.Debug(), ent.Log(func(...any) {})}},
		{"sqlite", schema.SQLite, sqlite, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := c.open(t)
			name := map[schema.Dialect]string{schema.Postgres: dialect.Postgres, schema.SQLite: dialect.SQLite}[c.dialect]
			client := ent.NewClient(append(c.options, ent.Driver(entsql.OpenDB(name, db)))...)
			trial.Orders(t, db, c.dialect, func(ctx context.Context, customer string) error {
				return shop.PlaceOrder(ctx, client, customer)
			})
			trial.Verbs(t, db, func(ctx context.Context, fn func(tx outbox.Tx) error) error {
				tx, err := client.Tx(ctx)
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

func postgres(t *testing.T) *sql.DB { t.Helper(); return trial.Open(t, "pgx", trial.Postgres(t)) }

func sqlite(t *testing.T) *sql.DB {
	t.Helper()
	return trial.Open(t, "sqlite", "file:"+trial.SQLite(t)+"?_txlock=immediate")
}
