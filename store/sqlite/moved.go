package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	sqlite "modernc.org/sqlite"

	"github.com/outboxmail/outbox/store"
)

// A connection keeps its file open, whatever happens to the name of the file. If the file is replaced, removed or renamed, the
// connection goes on writing to the old one, and its commits are lost with it. Each connection therefore compares its file with the
// one at the path before it is used.
//
// SQLite finds the files -wal and -shm by their names. A new connection would take those of the old file for its own and damage the
// new one. The last old connection would delete those of the new one when it closes. So no new connection is made before all old ones
// of this process are closed.

// tenants are the connections of this process to the file of a gate.
type tenants struct {
	mu    sync.Mutex
	known bool        // the file was open before: it is not created again
	id    os.FileInfo // of the file that they have open
	wal   os.FileInfo // of the -wal that belongs to it
	conns map[*gatedConn]struct{}
	left  chan struct{} // closed when one has left
}

// identify returns the identity of the file at path. It is loaded at once, as it would be later on Windows.
func identify(path string) (os.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	os.SameFile(info, info)
	return info, nil
}

// walOf is the path of the -wal. SQLite follows links before it adds the ending.
func walOf(path string) string {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	return path + "-wal"
}

// differs reports whether another file, or none, is at the path.
func differs(path string, id os.FileInfo) bool {
	now, err := os.Stat(path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return id != nil && !os.SameFile(now, id)
}

// admit waits until a new connection to path may be made.
func (t *tenants) admit(ctx context.Context, path string, wait time.Duration) error {
	limit := time.NewTimer(wait)
	defer limit.Stop()
	for {
		left, err := t.ask(path)
		if left == nil {
			return err
		}
		select {
		case <-left:
		case <-limit.C:
			return fmt.Errorf("%w: connections to the old file are still in use after %v", &store.MovedError{Path: path}, wait)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ask says whether a new connection may be made. If old ones must leave first, it closes those that are idle and returns a channel
// that is closed when one has left.
func (t *tenants) ask(path string) (left <-chan struct{}, err error) {
	t.mu.Lock()
	_, err = os.Stat(path)
	switch {
	case t.known && errors.Is(err, fs.ErrNotExist):
		t.mu.Unlock()
		return nil, &store.MovedError{Path: path, Gone: true}
	case len(t.conns) > 0 && differs(path, t.id):
		idle := make([]*gatedConn, 0, len(t.conns))
		for c := range t.conns {
			idle = append(idle, c)
		}
		if t.left == nil {
			t.left = make(chan struct{})
		}
		left := t.left
		t.mu.Unlock()
		for _, c := range idle {
			c.closeIdle()
		}
		return left, nil
	case len(t.conns) == 0 && t.wal != nil && differs(path, t.id) && !differs(walOf(path), t.wal):
		t.mu.Unlock()
		return nil, fmt.Errorf("%w: another program has the old file open, and %s belongs to it: stop that program, then remove the file",
			&store.MovedError{Path: path}, walOf(path))
	default:
		t.mu.Unlock()
		return nil, nil
	}
}

// enter adds a connection that was just made.
func (t *tenants) enter(c *gatedConn, path string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	id, err := identify(path)
	if err != nil || len(t.conns) > 0 && !os.SameFile(id, t.id) {
		return &store.MovedError{Path: path, Gone: err != nil}
	}
	t.known, t.id = true, id
	if wal, err := identify(walOf(path)); err == nil {
		t.wal = wal
	}
	if t.conns == nil {
		t.conns = make(map[*gatedConn]struct{})
	}
	t.conns[c] = struct{}{}
	c.id = id
	return nil
}

// leave removes a connection that was closed.
func (t *tenants) leave(c *gatedConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.conns, c)
	if t.left != nil {
		close(t.left)
		t.left = nil
	}
}

// keepsWAL reports whether the -wal at the path belongs to another file. It must not be deleted then.
func (t *tenants) keepsWAL(path string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wal == nil || differs(walOf(path), t.wal)
}

// moved reports whether the file of the connection is not at its path any more.
func (c *gatedConn) moved() bool { return differs(c.path, c.id) }

// ResetSession implements driver.SessionResetter. A connection whose file has moved is not used again.
func (c *gatedConn) ResetSession(ctx context.Context) error {
	c.mu.Lock()
	c.idle = false
	closed := c.closed
	c.mu.Unlock()
	if closed || c.moved() {
		return driver.ErrBadConn
	}
	return c.sqliteConn.ResetSession(ctx)
}

// IsValid implements driver.Validator. The pool asks when a connection returns. A connection that returns inside a transaction is closed,
// because nothing can end the transaction any more. Closing rolls back and releases the gate.
func (c *gatedConn) IsValid() bool {
	if c.inside || !c.sqliteConn.IsValid() || c.moved() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = true
	return !c.closed
}

// closeIdle closes the connection if it waits in its pool. The pool finds that out when the turn of the connection comes.
func (c *gatedConn) closeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle && !c.closed {
		_ = c.shut() // nobody waits for an error of an old file
	}
}

// Close implements driver.Conn.
func (c *gatedConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	return c.shut()
}

// shut closes the connection. The caller holds c.mu.
func (c *gatedConn) shut() error {
	c.closed = true
	defer c.gate.tenants.leave(c)
	defer c.leave()
	err := c.kept.close()
	if c.id != nil && c.moved() && c.gate.tenants.keepsWAL(c.path) {
		if files, ok := c.sqliteConn.(sqlite.FileControl); ok {
			_, persist := files.FileControlPersistWAL("main", 1)
			err = errors.Join(err, persist)
		}
	}
	return errors.Join(err, c.sqliteConn.Close())
}
