package outbox

import (
	"context"
	"database/sql"
	"errors"
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

// InTx is the way out for code that holds a transaction in a wrapper without Commit and Rollback, as some ORMs and
// repository layers hand it out. The caller answers for it that e is inside a transaction. Nil and a connection pool such
// as *sql.DB are recognised: then every call fails before anything is written.
//
// Where e has the QueryContext of database/sql it is used too. Commit and Rollback of the result return an error, for
// the transaction belongs to the wrapper's owner.
func InTx(e Execer) Tx {
	if _, pool := e.(interface{ SetMaxOpenConns(n int) }); pool || e == nil {
		e = notInTx{}
	}
	return wrapped{e}
}

// errNotOwner is returned by Commit and Rollback of a wrapper.
var errNotOwner = errors.New("this value only borrows the transaction: commit or roll back where it was begun")

// wrapped is what InTx returns.
type wrapped struct{ Execer }

// Commit does not commit.
func (wrapped) Commit() error { return errNotOwner }

// Rollback does not roll back.
func (wrapped) Rollback() error { return errNotOwner }

// notInTx takes the place of what is no transaction.
type notInTx struct{}

// ExecContext writes nothing.
func (notInTx) ExecContext(context.Context, string, ...any) (sql.Result, error) {
	return nil, errors.New("InTx was given nil or a connection pool, not a transaction: begin one first")
}

// PgxRows is the part of pgx.Rows that [FromPgx] needs.
type PgxRows interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
	Close()
}

// PgxTx is the part of pgx.Tx that [FromPgx] needs.
type PgxTx[Tag interface{ RowsAffected() int64 }, Rows PgxRows] interface {
	Exec(ctx context.Context, query string, args ...any) (Tag, error)
	Query(ctx context.Context, query string, args ...any) (Rows, error)
	Commit(ctx context.Context) error
	Rollback(ctx context.Context) error
}

// FromPgx makes a Tx of a native pgx transaction. The type parameters are found by the compiler:
//
//	tx, err := pool.Begin(ctx)
//	…
//	receipt, err := outbox.Enqueue(ctx, outbox.FromPgx(tx), msg)
//
// Commit and Rollback of the result run without a deadline; use those of the pgx transaction.
func FromPgx[Tag interface{ RowsAffected() int64 }, Rows PgxRows](tx PgxTx[Tag, Rows]) Tx {
	return pgxTx[Tag, Rows]{tx}
}

// pgxTx is what FromPgx returns.
type pgxTx[Tag interface{ RowsAffected() int64 }, Rows PgxRows] struct{ tx PgxTx[Tag, Rows] }

// ExecContext runs a statement in the transaction.
func (p pgxTx[Tag, Rows]) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	tag, err := p.tx.Exec(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return affected(tag.RowsAffected()), nil
}

// Commit commits the transaction.
func (p pgxTx[Tag, Rows]) Commit() error { return p.tx.Commit(context.Background()) }

// Rollback rolls the transaction back.
func (p pgxTx[Tag, Rows]) Rollback() error { return p.tx.Rollback(context.Background()) }

// affected is the sql.Result of a statement that makes no ids.
type affected int64

// LastInsertId fails: PostgreSQL has no such thing.
func (affected) LastInsertId() (int64, error) {
	return 0, errors.New("there is no last insert id")
}

// RowsAffected returns the number of rows.
func (n affected) RowsAffected() (int64, error) { return int64(n), nil }

// scanner is a transaction that can be queried. It calls each for every row, with the Scan of that row.
type scanner interface {
	scan(ctx context.Context, each func(scan func(dest ...any) error) error, query string, args ...any) error
}

// asScanner returns tx, or what InTx wrapped, as a scanner, or nil where it cannot be queried.
func asScanner(tx Tx) scanner {
	var e Execer = tx
	if w, ok := tx.(wrapped); ok {
		e = w.Execer
	}
	switch t := e.(type) {
	case scanner:
		return t
	case queryer:
		return sqlScanner{t}
	default:
		return nil
	}
}

func (p pgxTx[Tag, Rows]) scan(ctx context.Context, each func(scan func(dest ...any) error) error, query string, args ...any) error {
	rows, err := p.tx.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// queryer is a transaction of database/sql that can be queried.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// sqlScanner makes a scanner of a queryer.
type sqlScanner struct{ queryer }

func (s sqlScanner) scan(ctx context.Context, each func(scan func(dest ...any) error) error, query string, args ...any) error {
	rows, err := s.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}
