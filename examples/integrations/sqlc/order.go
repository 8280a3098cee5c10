// Package sqlc sells a teapot with queries that sqlc generates.
package sqlc

import (
	"context"
	"database/sql"

	"github.com/outboxmail/outbox"
)

// PlaceOrder stores the order, the e-mail about it and what is left: all or nothing. The transaction that WithTx gets is
// the one that Enqueue gets.
func PlaceOrder(ctx context.Context, db *sql.DB, customer string) error {
	return outbox.Do(ctx, db, func(tx *sql.Tx) error {
		q := New(db).WithTx(tx)
		if err := q.InsertOrder(ctx, customer); err != nil {
			return err
		}
		_, err := outbox.Enqueue(ctx, tx, &outbox.Message{
			From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: customer}},
			Subject: "Your teapot", Text: "Thank you! It is on its way.", Key: "teapot-" + customer,
		})
		if err != nil {
			return err
		}
		return q.TakeFromStock(ctx, "teapot")
	})
}

// EnqueueWelcome is called by code that was handed only a DBTX. InTx takes it, on the word of the caller that a transaction
// is behind it.
func EnqueueWelcome(ctx context.Context, db DBTX, customer string) error {
	_, err := outbox.Enqueue(ctx, outbox.InTx(db), &outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: customer}},
		Subject: "Welcome", Text: "Nice to meet you.",
	})
	return err
}
