package sqlc

import (
	"context"
	"database/sql"
)

// What follows is what sqlc generates for two queries (sqlc.dev, engine postgresql or sqlite, package database/sql).

// DBTX is a pool or a transaction.
type DBTX interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// New returns the queries on a pool or in a transaction.
func New(db DBTX) *Queries { return &Queries{db: db} }

// Queries are the queries of the shop.
type Queries struct{ db DBTX }

// WithTx returns the same queries in a transaction.
func (q *Queries) WithTx(tx *sql.Tx) *Queries { return &Queries{db: tx} }

const insertOrder = `INSERT INTO orders (customer) VALUES ($1)`

// InsertOrder stores an order.
func (q *Queries) InsertOrder(ctx context.Context, customer string) error {
	_, err := q.db.ExecContext(ctx, insertOrder, customer)
	return err
}

const takeFromStock = `UPDATE stock SET amount = amount - 1 WHERE product = $1`

// TakeFromStock takes one of a product.
func (q *Queries) TakeFromStock(ctx context.Context, product string) error {
	_, err := q.db.ExecContext(ctx, takeFromStock, product)
	return err
}
