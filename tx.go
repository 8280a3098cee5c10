package outbox

import (
	"context"
	"database/sql"
)

// Tx is the transaction that a message joins. *sql.Tx satisfies it, and so does everything that embeds one (*sqlx.Tx,
// bun.Tx …). *sql.DB does not, on purpose: enqueueing outside a transaction does not compile. Use [FromPgx] for a
// native pgx transaction and [InTx] for a wrapper that shows only part of its transaction.
//
// This package calls ExecContext, and QueryContext where the value has it; it never commits or rolls back.
type Tx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	Commit() error
	Rollback() error
}

// Execer is the part of a transaction that [InTx] needs.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}
