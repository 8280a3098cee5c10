package bun_test

import (
	"context"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/dialect/sqlitedialect"

	"github.com/outboxmail/outbox"
	shop "github.com/outboxmail/outbox/examples/integrations/bun"
	"github.com/outboxmail/outbox/examples/integrations/internal/trial"
	"github.com/outboxmail/outbox/outboxtest"
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

// A bun.Tx compiles as a transaction of outbox, but does not pass arguments on. The error says what to give.
func TestBunTxItself(t *testing.T) {
	t.Parallel()
	for d, open := range databases {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			db := open(t)
			msg := &outbox.Message{
				From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}}, Text: "hi",
			}
			err := db.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
				_, err := outbox.Enqueue(ctx, tx, msg)
				return err
			})
			if err == nil || !strings.Contains(err.Error(), "tx.Tx") {
				t.Errorf("the error is %v", err)
			}
			for name, pool := range map[string]outbox.Execer{"bun.DB": db, "the pool inside": db.DB} {
				if _, err := outbox.Enqueue(t.Context(), outbox.InTx(pool), msg); err == nil || !strings.Contains(err.Error(), "begin one") {
					t.Errorf("%s: the error is %v", name, err)
				}
			}
			outboxtest.RequireNotEnqueued(t, db, outboxtest.Match{})
		})
	}
}
