// Package databasesql sells a teapot with database/sql.
package databasesql

import (
	"context"
	"database/sql"

	"github.com/outboxmail/outbox"
)

// PlaceOrder stores the order, the e-mail about it and what is left: all or nothing.
func PlaceOrder(ctx context.Context, db *sql.DB, customer string) error {
	return outbox.Do(ctx, db, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "INSERT INTO orders (customer) VALUES ($1)", customer); err != nil {
			return err
		}
		_, err := outbox.Enqueue(ctx, tx, &outbox.Message{
			From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: customer}},
			Subject: "Your teapot", Text: "Thank you! It is on its way.", Key: "teapot-" + customer,
		})
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "UPDATE stock SET amount = amount - 1 WHERE product = 'teapot'")
		return err
	})
}
