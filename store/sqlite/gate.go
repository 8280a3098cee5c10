package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// SQLite has one writer at a time. Whoever finds the file locked sleeps and tries again, up to 100 ms later (its busy
// handler), and is served in no order: with a dozen goroutines that write, the lock is free most of the time and some
// wait until they fail with SQLITE_BUSY. So the writers of this process queue here, first come, first served, and only
// other processes are left to the busy handler.

// gates holds one gate for each file, shared by all pools of the process.
var gates sync.Map // canonical path → *gate

// gate is the queue for one file.
type gate struct {
	*semaphore.Weighted
	wal atomic.Bool // a connection was made, and so the journal is what it should be
}

// gateOf returns the gate of a file, by whichever name it is opened.
func gateOf(path string) *gate {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		path = filepath.Join(dir, filepath.Base(path)) // the file itself may not exist yet
	}
	if file, err := filepath.EvalSymlinks(path); err == nil {
		path = file
	}
	g, _ := gates.LoadOrStore(path, &gate{Weighted: semaphore.NewWeighted(1)})
	return g.(*gate) //nolint:forcetypeassert // nothing else is stored
}

// gatedConnector opens connections whose writers queue at a gate.
type gatedConnector struct {
	driver.Connector
	path string
	gate *gate
	wait time.Duration
}

// sqliteConn is what the driver's connections can do and database/sql makes use of.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// Connect implements driver.Connector.
func (c *gatedConnector) Connect(ctx context.Context) (driver.Conn, error) {
	if !c.gate.wal.Load() { // the first connection to a file writes: it turns the journal to WAL
		if err := enter(ctx, c.gate, c.wait); err != nil {
			return nil, err
		}
		defer c.gate.Release(1)
	}
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, c.explain(err)
	}
	c.gate.wal.Store(true)
	inner, ok := conn.(sqliteConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the SQLite driver's connection is a %T, which lacks a method", conn), conn.Close())
	}
	return &gatedConn{sqliteConn: inner, gate: c.gate, wait: c.wait}, nil
}

// explain says which file it is that no connection can be made to, where the driver knows only what is wrong with it.
func (c *gatedConnector) explain(err error) error {
	switch {
	case isCode(err, sqliteNotADB):
		return fmt.Errorf("%s is not an SQLite database, or it is encrypted: %w", c.path, err)
	case isCode(err, sqliteCorrupt):
		return fmt.Errorf("%s is damaged: %w", c.path, err)
	default:
		return err
	}
}

// enter waits for the gate as long as a busy writer waits for a locked file.
func enter(ctx context.Context, g *gate, wait time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if err := g.Acquire(limited, 1); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("database is locked: another writer of this process has held it for %v", wait)
	}
	return nil
}

// gatedConn passes the gate before it takes the write lock, and gives it back afterwards. Transactions that are not
// read-only pass it, and statements outside one that change something. Statements that are prepared or return rows do
// not, outside a transaction: they are left to the busy handler. Like every connection it is used by one goroutine at a
// time.
type gatedConn struct {
	sqliteConn
	gate   *gate
	wait   time.Duration
	inside bool // holds the gate
	kept   statements
}

func (c *gatedConn) enter(ctx context.Context) error {
	if err := enter(ctx, c.gate, c.wait); err != nil {
		return err
	}
	c.inside = true
	return nil
}

func (c *gatedConn) leave() {
	if c.inside {
		c.inside = false
		c.gate.Release(1)
	}
}

// BeginTx implements driver.ConnBeginTx.
func (c *gatedConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if opts.ReadOnly || c.inside {
		return c.sqliteConn.BeginTx(ctx, opts)
	}
	if err := c.enter(ctx); err != nil {
		return nil, err
	}
	tx, err := c.sqliteConn.BeginTx(ctx, opts)
	if err != nil {
		c.leave()
		return nil, err
	}
	return &gatedTx{Tx: tx, conn: c}, nil
}

// gatedTx leaves the gate at its end, however it ends: database/sql does not use it again.
type gatedTx struct {
	driver.Tx
	conn *gatedConn
}

// Commit implements driver.Tx.
func (t *gatedTx) Commit() error {
	defer t.conn.leave()
	return t.Tx.Commit()
}

// Rollback implements driver.Tx.
func (t *gatedTx) Rollback() error {
	defer t.conn.leave()
	return t.Tx.Rollback()
}

// ExecContext implements driver.ExecerContext.
func (c *gatedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	switch verb := firstWord(query); {
	case verb == "BEGIN" && !c.inside:
		if err := c.enter(ctx); err != nil {
			return nil, err
		}
		res, err := c.sqliteConn.ExecContext(ctx, query, args)
		switch {
		case err == nil && closes(query): // a script with the whole of a transaction
			c.leave()
		case err != nil && !strings.Contains(strings.TrimRight(query, " \t\r\n;"), ";"):
			// It did not begin; or it did, and the driver calls it a failure because ctx ended meanwhile. Who hears of that ends
			// nothing, so it is ended here. Where there is no transaction this fails, and does no harm.
			_, _ = c.sqliteConn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK", nil)
			c.leave()
		}
		return res, err
	case verb == "COMMIT" || verb == "END" || verb == "ROLLBACK" && !strings.Contains(strings.ToUpper(query), " TO "):
		res, err := c.sqliteConn.ExecContext(ctx, query, args)
		if err == nil || verb == "ROLLBACK" { // a rollback fails only where SQLite had rolled back by itself
			c.leave()
		}
		return res, err
	case c.inside, verb == "SELECT", verb == "PRAGMA", verb == "EXPLAIN":
		return c.exec(ctx, query, args)
	default:
		if err := c.enter(ctx); err != nil {
			return nil, err
		}
		defer c.leave()
		return c.exec(ctx, query, args)
	}
}

// IsValid implements driver.Validator. A connection that comes back inside a transaction, which nobody can end any more, is
// closed: that rolls back and gives the gate back.
func (c *gatedConn) IsValid() bool { return !c.inside && c.sqliteConn.IsValid() }

// Close implements driver.Conn.
func (c *gatedConn) Close() error {
	defer c.leave()
	return errors.Join(c.kept.close(), c.sqliteConn.Close())
}

// closes says whether a text that begins a transaction also ends it, as scripts do.
func closes(query string) bool {
	text := strings.ToUpper(strings.TrimRight(query, " \t\r\n;"))
	text = strings.TrimRight(strings.TrimSuffix(text, "TRANSACTION"), " \t\r\n")
	for _, end := range []string{"COMMIT", "END", "ROLLBACK"} {
		before, ok := strings.CutSuffix(text, end)
		if ok && strings.HasSuffix(strings.TrimRight(before, " \t\r\n"), ";") {
			return true
		}
	}
	return false
}

// firstWord returns the keyword that a statement begins with, in capitals, behind white space and comments.
func firstWord(query string) string {
	for {
		query = strings.TrimLeft(query, " \t\r\n;")
		switch {
		case strings.HasPrefix(query, "--"):
			_, query, _ = strings.Cut(query, "\n")
		case strings.HasPrefix(query, "/*"):
			_, query, _ = strings.Cut(query, "*/")
		default:
			end := strings.IndexFunc(query, func(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') })
			if end < 0 {
				end = len(query)
			}
			return strings.ToUpper(query[:end])
		}
	}
}
