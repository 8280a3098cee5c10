// Package bun sells a teapot with github.com/uptrace/bun.
package bun

import (
	"context"

	"github.com/uptrace/bun"

	"github.com/outboxmail/outbox"
)

// Order is an order.
type Order struct {
	ID       int64 `bun:",pk,autoincrement"`
	Customer string
}

// PlaceOrder stores the order, the e-mail about it and what is left: all or nothing. Enqueue gets tx.Tx, the transaction of
// database/sql: a bun.Tx itself takes ? for placeholders and does not pass arguments on.
func PlaceOrder(ctx context.Context, db *bun.DB, customer string) error {
	return db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.NewInsert().Model(&Order{Customer: customer}).Exec(ctx); err != nil {
			return err
		}
		_, err := outbox.Enqueue(ctx, tx.Tx, &outbox.Message{
			From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: customer}},
			Subject: "Your teapot", Text: "Thank you! It is on its way.", Key: "teapot-" + customer,
		})
		if err != nil {
			return err
		}
		_, err = tx.NewUpdate().Table("stock").Set("amount = amount - 1").Where("product = ?", "teapot").Exec(ctx)
		return err
	})
}
