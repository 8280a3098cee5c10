package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// SQLite allows one writer at a time. A writer that finds the file locked sleeps and tries again, up to 100 ms later
// (its busy handler). Waiting writers are served in no order. With a dozen writing goroutines the lock is free most
// of the time, and some goroutines wait until they fail with SQLITE_BUSY. The writers of this process therefore queue
// here, first come, first served. The busy handler waits for other processes only.

// gates holds one gate for each file. All pools of the process share it.
var gates sync.Map // canonical path → *gate

// gate is the queue for one file.
type gate struct {
	*semaphore.Weighted
	wal     atomic.Bool // set by the first connection, which has turned the journal to WAL
	tenants tenants
}

// gateOf returns the gate of a file. Every name of the file leads to the same gate.
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

// sqliteConn has the methods of the driver's connections that database/sql uses.
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
	if err := c.gate.tenants.admit(ctx, c.path, c.wait); err != nil {
		return nil, err
	}
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
	gated := &gatedConn{sqliteConn: inner, gate: c.gate, wait: c.wait, path: c.path}
	if err := c.gate.tenants.enter(gated, c.path); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return gated, nil
}

// explain names the file in an error of connecting. The driver says only what is wrong with the file.
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

// enter acquires the gate. It waits at most as long as a busy writer waits for a locked file, and then fails.
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

// gatedConn acquires the gate before it takes the write lock, and releases it afterwards. Transactions acquire the
// gate unless they are read-only, and so do statements outside a transaction that change something. Outside a
// transaction, prepared statements and statements that return rows do not acquire it and rely on the busy handler.
// Like every connection it is used by one goroutine at a time.
type gatedConn struct {
	sqliteConn
	gate   *gate
	wait   time.Duration
	inside bool // holds the gate
	kept   statements
	path   string
	id     os.FileInfo // of the file that it has open
	era    int64       // of the tenants when it was made

	mu     sync.Mutex // guards idle and closed; the rest belongs to the user of the connection
	idle   bool       // in its pool
	closed bool
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

// gatedTx releases the gate at its end, even if the end fails, because database/sql does not use a transaction again.
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
		case err == nil && closes(query): // a script that holds a whole transaction
			c.leave()
		case err != nil && !strings.Contains(strings.TrimRight(query, " \t\r\n;"), ";"):
			// BEGIN failed, or it took effect and the driver reports a failure because ctx ended meanwhile. After a failed
			// BEGIN the caller ends no transaction, so it is rolled back here. Without a transaction the ROLLBACK fails and
			// does no harm.
			_, _ = c.sqliteConn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK", nil)
			c.leave()
		}
		return res, err
	case verb == "COMMIT" || verb == "END" || verb == "ROLLBACK" && !strings.Contains(strings.ToUpper(query), " TO "):
		res, err := c.sqliteConn.ExecContext(ctx, query, args)
		if err == nil || verb == "ROLLBACK" { // a rollback fails only if SQLite had already rolled back
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

// closes reports whether a script that begins a transaction also ends it.
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

// firstWord returns the first keyword of a statement in capitals. It skips white space and comments.
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
