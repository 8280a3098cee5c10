// Package ent sells a teapot with entgo.io/ent.
package ent

import (
	"context"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/examples/integrations/ent/ent"
)

// PlaceOrder stores the order, the e-mail about it and what is left: all or nothing. The client is generated with
// --feature sql/execquery, which gives *ent.Tx the ExecContext and QueryContext that Enqueue calls.
func PlaceOrder(ctx context.Context, client *ent.Client, customer string) error {
	tx, err := client.Tx(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after the commit
	if _, err := tx.Order.Create().SetCustomer(customer).Save(ctx); err != nil {
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
