// Package sqlx sells a teapot with github.com/jmoiron/sqlx.
package sqlx

import (
	"context"

	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox"
)

// PlaceOrder stores the order, the e-mail about it and what is left: all or nothing. A *sqlx.Tx is given as it is.
func PlaceOrder(ctx context.Context, db *sqlx.DB, customer string) error {
	tx, err := db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after the commit
	order := map[string]any{"customer": customer}
	if _, err := tx.NamedExecContext(ctx, "INSERT INTO orders (customer) VALUES (:customer)", order); err != nil {
		return err
	}
	_, err = outbox.Enqueue(ctx, tx, &outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: customer}},
		Subject: "Your teapot", Text: "Thank you! It is on its way.", Key: "teapot-" + customer,
	})
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "UPDATE stock SET amount = amount - 1 WHERE product = 'teapot'"); err != nil {
		return err
	}
	return tx.Commit()
}
