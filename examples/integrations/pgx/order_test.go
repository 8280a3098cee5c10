package pgx_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/examples/integrations/internal/trial"
	shop "github.com/outboxmail/outbox/examples/integrations/pgx"
	"github.com/outboxmail/outbox/schema"
)

// The dispatcher works on the application's own pool, through database/sql.
func TestPlaceOrderWithAPool(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), trial.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	db := stdlib.OpenDBFromPool(pool)
	t.Cleanup(func() { _ = db.Close() })
	trial.Orders(t, db, schema.Postgres, func(ctx context.Context, customer string) error {
		return shop.PlaceOrder(ctx, pool, customer)
	})
	trial.Verbs(t, db, func(ctx context.Context, fn func(tx outbox.Tx) error) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return fn(outbox.FromPgx(tx)) })
	})
}

// A single connection, and a savepoint inside the transaction, which pgx shows as a transaction of its own.
func TestEnqueueOnAConnection(t *testing.T) {
	t.Parallel()
	dsn := trial.Postgres(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	trial.Verbs(t, trial.Open(t, "pgx", dsn), func(ctx context.Context, fn func(tx outbox.Tx) error) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			return pgx.BeginFunc(ctx, tx, func(savepoint pgx.Tx) error { return fn(outbox.FromPgx(savepoint)) })
		})
	})
}
