package gorm_test

import (
	"context"
	"strings"
	"testing"

	"gorm.io/driver/postgres"
	"gorm.io/driver/sqlite"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/outboxmail/outbox"
	shop "github.com/outboxmail/outbox/examples/integrations/gorm"
	"github.com/outboxmail/outbox/examples/integrations/internal/trial"
	"github.com/outboxmail/outbox/schema"
)

func TestPlaceOrder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		dialect  schema.Dialect
		open     func(t *testing.T) gorm.Dialector
		prepared bool
	}{
		{"postgres", schema.Postgres, func(t *testing.T) gorm.Dialector { t.Helper(); return postgres.Open(trial.Postgres(t)) }, false},
		{"postgres with PrepareStmt", schema.Postgres, func(t *testing.T) gorm.Dialector {
			t.Helper()
			return postgres.Open(trial.Postgres(t))
		}, true},
		{"sqlite", schema.SQLite, func(t *testing.T) gorm.Dialector {
			t.Helper()
			return sqlite.Open("file:" + trial.SQLite(t) + "?_txlock=immediate&_busy_timeout=10000")
		}, false},
		{"sqlite with PrepareStmt", schema.SQLite, func(t *testing.T) gorm.Dialector {
			t.Helper()
			return sqlite.Open("file:" + trial.SQLite(t) + "?_txlock=immediate&_busy_timeout=10000")
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			config := &gorm.Config{Logger: logger.Discard, PrepareStmt: c.prepared}
			db, err := gorm.Open(c.open(t), config)
			if err != nil {
				t.Fatal(err)
			}
			pool, err := db.DB()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = pool.Close() })
			trial.Orders(t, pool, c.dialect, func(ctx context.Context, customer string) error {
				return shop.PlaceOrder(ctx, db, customer)
			})
			// Outside Transaction, ConnPool is the pool.
			err = place(t.Context(), db)
			if err == nil || !strings.Contains(err.Error(), "begin one") {
				t.Errorf("outside a transaction the error is %v", err)
			}
			trial.Verbs(t, pool, func(ctx context.Context, fn func(tx outbox.Tx) error) error {
				return db.WithContext(ctx).Transaction(func(tx *gorm.DB) error { return fn(outbox.InTx(tx.Statement.ConnPool)) })
			})
		})
	}
}

// place enqueues on the connections of db, whatever they are.
func place(ctx context.Context, db *gorm.DB) error {
	_, err := outbox.Enqueue(ctx, outbox.InTx(db.WithContext(ctx).Statement.ConnPool), &outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}}, Text: "hi",
	})
	return err
}
