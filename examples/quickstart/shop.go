package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
	"github.com/outboxmail/outbox/store/sqlite"
)

// route separates the mail of this example from other mail.
const route = "quickstart"

// shop is the application. It has its own table beside those of outbox.
type shop struct {
	db    *sql.DB
	queue *store.Store // of the same database, for the dispatcher
	place string       // description of the database in the output
	close func()
}

// order is a customer's order.
type order struct {
	item     string
	customer outbox.Address
	from     outbox.Address
	declined bool // the payment fails
}

// placed is the result of placeOrder.
type placed struct {
	number  int
	receipt outbox.Receipt
}

var errDeclined = errors.New("the card was declined")

// placeOrder stores an order and the e-mail about it in one transaction.
func (s *shop) placeOrder(ctx context.Context, o order) (placed, error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return placed{}, err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit

	var p placed
	if err := tx.QueryRowContext(ctx, `SELECT coalesce(max(number), 1000) + 1 FROM quickstart_orders`).Scan(&p.number); err != nil {
		return p, err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO quickstart_orders (number, item) VALUES ($1, $2)`, p.number, o.item); err != nil {
		return p, err
	}
	p.receipt, err = outbox.Enqueue(ctx, tx, &outbox.Message{
		From:    o.from,
		To:      []outbox.Address{o.customer},
		Subject: fmt.Sprintf("Your order %d", p.number),
		Text:    fmt.Sprintf("Thank you! Your %s is on its way.\n", o.item),
		Key:     orderKey(p.number), // one e-mail for each order, even if this call is repeated
		Route:   route,
	})
	if err != nil {
		return p, err
	}
	if o.declined {
		return p, errDeclined // the rollback undoes the order and the e-mail together
	}
	return p, tx.Commit()
}

func orderKey(number int) string { return "quickstart-order-" + strconv.Itoa(number) }

// openShop opens the database and creates missing tables.
func openShop(ctx context.Context, name string) (*shop, error) {
	s, dialect, err := connect(name)
	if err != nil {
		return nil, err
	}
	if err := schema.Migrate(ctx, s.db, dialect); err != nil {
		s.close()
		return nil, err
	}
	const orders = `CREATE TABLE IF NOT EXISTS quickstart_orders (number INTEGER PRIMARY KEY, item TEXT NOT NULL)`
	if _, err := s.db.ExecContext(ctx, orders); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func connect(name string) (*shop, schema.Dialect, error) {
	if strings.HasPrefix(name, "postgres://") || strings.HasPrefix(name, "postgresql://") {
		db, err := postgres.Open(name)
		if err != nil {
			return nil, "", err
		}
		queue, err := store.New(db, schema.Postgres)
		return &shop{db: db, queue: queue, place: "PostgreSQL", close: func() { _ = db.Close() }}, schema.Postgres, err
	}
	path, place, remove := strings.TrimPrefix(name, "sqlite:"), "SQLite file "+name, func() {}
	if name == "" {
		dir, err := os.MkdirTemp("", "outbox-quickstart-")
		if err != nil {
			return nil, "", err
		}
		path, place, remove = filepath.Join(dir, "shop.db"), "SQLite file in a temporary folder", func() { _ = os.RemoveAll(dir) }
	}
	db, err := sqlite.Open(path)
	if err != nil {
		remove()
		return nil, "", err
	}
	queue, err := store.New(db, schema.SQLite)
	return &shop{db: db, queue: queue, place: place, close: func() { _ = db.Close(); remove() }}, schema.SQLite, err
}

// count returns the result of a query for a number of rows.
func (s *shop) count(ctx context.Context, query string, arg any) (n int, err error) {
	err = s.db.QueryRowContext(ctx, query, arg).Scan(&n)
	return n, err
}
