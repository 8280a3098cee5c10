package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
)

// Tx is the transaction that a message joins. *sql.Tx and *sqlx.Tx are one. *sql.DB is not, on purpose: enqueueing outside a
// transaction does not compile. Use [FromPgx] for a native pgx transaction, and [InTx] for a wrapper without Commit and Rollback.
//
// ExecContext must send the query as it is, with its $1, $2 … and all its arguments. A bun.Tx does not: it has placeholders of
// its own. Give the *sql.Tx inside it, tx.Tx. See docs/integrations.md for sqlx, sqlc, pgx, gorm, bun and ent.
//
// This package calls ExecContext, and QueryContext if the value has it. It never calls Commit or Rollback.
type Tx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	Commit() error
	Rollback() error
}

// Execer is the part of a transaction that [InTx] needs.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// InTx makes a Tx of a wrapper that shows a transaction without Commit and Rollback, as some ORMs and repository layers do. You
// answer for it that e is inside a transaction. It refuses nil and everything that can begin a transaction itself and cannot
// commit one, such as *sql.DB, *sql.Conn, *sqlx.DB, a bun.DB and a pool of gorm: every call with the result fails then, and
// writes nothing.
//
// On a *sql.Conn where you ran BEGIN yourself, hide the rest of it: InTx(struct{ outbox.Execer }{conn}).
//
// QueryContext of e is used if it has the signature of database/sql. Without it, the receipt of a duplicate has no ID. Commit
// and Rollback of the result return an error, because the transaction belongs to its owner.
func InTx(e Execer) Tx {
	switch {
	case isNil(e):
		e = noTx{errNoTx}
	case beginsOnly(e):
		e = noTx{fmt.Errorf("InTx was given a %T, which is no transaction: begin one with it and give that", e)}
	}
	return wrapped{e}
}

// isNil reports whether there is nothing, or a pointer to nothing.
func isNil(e Execer) bool {
	if e == nil {
		return true
	}
	v := reflect.ValueOf(e)
	return v.Kind() == reflect.Pointer && v.IsNil()
}

// beginsOnly reports whether e begins transactions and does not end one, as a connection and a pool do. The signatures differ
// from library to library, so the names decide. Each name is a constant, because the linker keeps all methods otherwise. A
// transaction that begins savepoints also commits.
func beginsOnly(e Execer) bool {
	t := reflect.TypeOf(e)
	if _, commits := t.MethodByName("Commit"); commits {
		return false
	}
	_, begin := t.MethodByName("Begin")
	_, beginTx := t.MethodByName("BeginTx")
	_, beginx := t.MethodByName("Beginx")
	_, beginTxx := t.MethodByName("BeginTxx")
	_, pool := t.MethodByName("SetMaxOpenConns")
	return begin || beginTx || beginx || beginTxx || pool
}

// errNotOwner is returned by Commit and Rollback of a wrapper.
var errNotOwner = errors.New("this value only borrows the transaction: commit or roll back where it was begun")

// wrapped is what InTx returns.
type wrapped struct{ Execer }

// Commit does not commit.
func (wrapped) Commit() error { return errNotOwner }

// Rollback does not roll back.
func (wrapped) Rollback() error { return errNotOwner }

// noTx takes the place of a value that is no transaction.
type noTx struct{ err error }

// ExecContext writes nothing.
func (n noTx) ExecContext(context.Context, string, ...any) (sql.Result, error) { return nil, n.err }

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
