// Package pgx sells a teapot with native pgx: a pool of pgxpool, and transactions of pgx.
package pgx

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxmail/outbox"
)

// PlaceOrder stores the order, the e-mail about it and what is left: all or nothing.
func PlaceOrder(ctx context.Context, pool *pgxpool.Pool, customer string) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO orders (customer) VALUES ($1)", customer); err != nil {
			return err
		}
		_, err := outbox.Enqueue(ctx, outbox.FromPgx(tx), &outbox.Message{
			From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: customer}},
			Subject: "Your teapot", Text: "Thank you! It is on its way.", Key: "teapot-" + customer,
		})
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE stock SET amount = amount - 1 WHERE product = 'teapot'")
		return err
	})
}
