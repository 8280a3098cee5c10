// Package gorm sells a teapot with gorm.io/gorm.
package gorm

import (
	"context"

	"gorm.io/gorm"

	"github.com/outboxmail/outbox"
)

// Order is an order.
type Order struct {
	ID       int64
	Customer string
}

// PlaceOrder stores the order, the e-mail about it and what is left: all or nothing. Inside Transaction the transaction is
// tx.Statement.ConnPool; outside one that is the pool, which InTx refuses.
func PlaceOrder(ctx context.Context, db *gorm.DB, customer string) error {
	return db.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
		if err := tx.Create(&Order{Customer: customer}).Error; err != nil {
			return err
		}
		_, err := outbox.Enqueue(ctx, outbox.InTx(tx.Statement.ConnPool), &outbox.Message{
			From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: customer}},
			Subject: "Your teapot", Text: "Thank you! It is on its way.", Key: "teapot-" + customer,
		})
		if err != nil {
			return err
		}
		return tx.Exec("UPDATE stock SET amount = amount - 1 WHERE product = ?", "teapot").Error
	})
}
