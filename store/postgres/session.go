package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/outboxmail/outbox/internal/sqlstate"
)

// After a failover, open sessions may still lead to the old primary, which only reads now. The server closes none of them, and the
// pool keeps them as long as they answer. The sessions of [Open] therefore look at the errors of their statements. The first error that
// says "read-only" outdates every session that is open then.

// connector opens sessions and numbers their eras. A session of an earlier era is not used again.
type connector struct {
	driver.Connector
	era atomic.Uint64
}

// pqConn has the methods of lib/pq's connections that database/sql uses.
type pqConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// Connect implements driver.Connector.
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	era := c.era.Load()
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	inner, ok := conn.(pqConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the connection of lib/pq is a %T, which lacks a method", conn), conn.Close())
	}
	return &session{pqConn: inner, pool: c, era: era}, nil
}

// outdate ends the era of a session. The idle sessions of the pool are closed when their turn comes, those at work when they return.
func (c *connector) outdate(era uint64) { c.era.CompareAndSwap(era, era+1) }

// session is a connection that notices that its server only reads.
type session struct {
	pqConn
	pool     *connector
	era      uint64
	readOnly bool // in a transaction that was begun to read only: its refusals are its own fault
}

// seen looks at the error of a statement and returns it.
func (s *session) seen(err error) error {
	if err != nil && !s.readOnly && sqlstate.Of(err) == sqlstate.ReadOnlyTransaction {
		s.pool.outdate(s.era)
	}
	return err
}

func (s *session) outdated() bool { return s.era < s.pool.era.Load() }

// ResetSession implements driver.SessionResetter.
func (s *session) ResetSession(ctx context.Context) error {
	if s.outdated() {
		return driver.ErrBadConn
	}
	return s.pqConn.ResetSession(ctx)
}

// IsValid implements driver.Validator.
func (s *session) IsValid() bool { return !s.outdated() && s.pqConn.IsValid() }

// levels are the isolation levels of PostgreSQL that are not its default.
var levels = map[sql.IsolationLevel]string{
	sql.LevelReadUncommitted: "READ UNCOMMITTED",
	sql.LevelReadCommitted:   "READ COMMITTED",
	sql.LevelRepeatableRead:  "REPEATABLE READ",
	sql.LevelSerializable:    "SERIALIZABLE",
}

// BeginTx implements driver.ConnBeginTx. That of lib/pq begins with READ WRITE. It would write to a server that was told to read only
// by default_transaction_read_only.
func (s *session) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	level := levels[sql.IsolationLevel(opts.Isolation)]
	if opts.ReadOnly || level == "" && opts.Isolation != driver.IsolationLevel(sql.LevelDefault) {
		tx, err := s.pqConn.BeginTx(ctx, opts)
		if err != nil {
			return nil, err
		}
		s.readOnly = opts.ReadOnly
		return &transaction{Tx: tx, session: s}, nil
	}
	tx, err := s.Begin() // it is the one that leaves the mode to the server
	if err != nil {
		return nil, err
	}
	if level != "" {
		if _, err := s.pqConn.ExecContext(ctx, "SET TRANSACTION ISOLATION LEVEL "+level, nil); err != nil {
			return nil, errors.Join(err, tx.Rollback())
		}
	}
	return &transaction{Tx: tx, session: s}, nil
}

// transaction tells its session that it has ended.
type transaction struct {
	driver.Tx
	session *session
}

// Commit implements driver.Tx.
func (t *transaction) Commit() error {
	defer func() { t.session.readOnly = false }()
	return t.session.seen(t.Tx.Commit())
}

// Rollback implements driver.Tx.
func (t *transaction) Rollback() error {
	defer func() { t.session.readOnly = false }()
	return t.Tx.Rollback()
}

// ExecContext implements driver.ExecerContext.
func (s *session) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	res, err := s.pqConn.ExecContext(ctx, query, args)
	return res, s.seen(err)
}

// QueryContext implements driver.QueryerContext.
func (s *session) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := s.pqConn.QueryContext(ctx, query, args)
	return rows, s.seen(err)
}

// PrepareContext implements driver.ConnPrepareContext.
func (s *session) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	stmt, err := s.pqConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, s.seen(err)
	}
	inner, ok := stmt.(pqStmt)
	if !ok {
		return stmt, nil // a COPY
	}
	return &statement{pqStmt: inner, session: s}, nil
}

// pqStmt has the methods of lib/pq's statements that database/sql uses.
type pqStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// statement is a prepared statement of a session.
type statement struct {
	pqStmt
	session *session
}

// ExecContext implements driver.StmtExecContext.
func (s *statement) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	res, err := s.pqStmt.ExecContext(ctx, args)
	return res, s.session.seen(err)
}

// QueryContext implements driver.StmtQueryContext.
func (s *statement) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := s.pqStmt.QueryContext(ctx, args)
	return rows, s.session.seen(err)
}
