package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outboxmail/outbox/queue"
)

// A connection keeps its file open, whatever happens to the name of the file. If the file is replaced, removed or renamed, the
// connection goes on writing to the old one, and its commits are lost with it. The connections therefore compare their file with the one
// at the path while they are used, ten times a second.
//
// SQLite finds the files -wal and -shm by their names. A new connection would take those of the old file for its own and damage the
// new one. So no new connection is made before all old ones of this process are closed. The last of them moves what the -wal holds into
// the old file, and removes the -wal and -shm if they are still those of the old file. SQLite itself would do neither.

// tenants are the connections of this process to the file of a gate.
type tenants struct {
	mu    sync.Mutex
	known bool        // the file was open before: it is not created again
	id    os.FileInfo // of the file that they have open
	wal   os.FileInfo // of the -wal and the -shm that belong to it
	shm   os.FileInfo
	conns map[*gatedConn]struct{}
	left  chan struct{} // closed when one has left

	era    atomic.Int64 // counts the files: a connection of an earlier era has an old one open
	looked atomic.Int64 // when somebody last looked at the file, in Unix nanoseconds
}

// lookEvery is the time between two looks at the file while connections are used. A look costs as much as a short query. A test sets it
// to zero.
var lookEvery = 100 * time.Millisecond

// identify returns the identity of the file at path. It is loaded at once, as it would be later on Windows.
func identify(path string) (os.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	os.SameFile(info, info)
	return info, nil
}

// beside is the path of the -wal or the -shm. SQLite follows links before it adds the ending.
func beside(path, ending string) string {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	return path + ending
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
		left, err := t.evict(path) //nolint:contextcheck // closing takes no context
		if left == nil || err != nil {
			return err
		}
		select {
		case <-left:
		case <-limit.C:
			return fmt.Errorf("%w: connections to the old file are still in use after %v", &queue.MovedError{Path: path}, wait)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// evict closes the idle connections to an old file. While any are left it returns a channel that is closed when one has gone. It
// returns nil if a new connection may be made, and an error if none may.
func (t *tenants) evict(path string) (<-chan struct{}, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := os.Stat(path); t.known && errors.Is(err, fs.ErrNotExist) {
		return nil, &queue.MovedError{Path: path, Gone: true}
	}
	if !t.known || !differs(path, t.id) {
		return nil, nil //nolint:nilnil // it may be made
	}
	if len(t.conns) == 0 {
		if t.wal == nil || differs(beside(path, "-wal"), t.wal) {
			return nil, nil //nolint:nilnil // as above
		}
		return nil, fmt.Errorf("%w: another program uses the old file, and %s belongs to it: stop that program, then remove %[2]s",
			&queue.MovedError{Path: path}, beside(path, "-wal"))
	}
	t.era.Add(1)
	old := slices.Collect(maps.Keys(t.conns))
	if t.left == nil {
		t.left = make(chan struct{})
	}
	left := t.left
	t.mu.Unlock()
	for _, c := range old { // each takes the lock when it leaves
		c.closeIdle()
	}
	t.mu.Lock()
	return left, nil
}

// enter adds a connection that was just made.
func (t *tenants) enter(c *gatedConn, path string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	id, err := identify(path)
	if err != nil || len(t.conns) > 0 && !os.SameFile(id, t.id) {
		return &queue.MovedError{Path: path, Gone: err != nil}
	}
	t.known, t.id = true, id
	t.wal, _ = identify(beside(path, "-wal"))
	t.shm, _ = identify(beside(path, "-shm"))
	if t.conns == nil {
		t.conns = make(map[*gatedConn]struct{})
	}
	t.conns[c] = struct{}{}
	c.id, c.era = id, t.era.Load()
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

// last reports whether the connection is the only one left.
func (t *tenants) last(c *gatedConn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.conns[c]
	return ok && len(t.conns) == 1
}

// clear removes the files beside the old one, if they are still at their paths.
func (t *tenants) clear(path string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var failed error
	for ending, id := range map[string]os.FileInfo{"-wal": t.wal, "-shm": t.shm} {
		if name := beside(path, ending); id != nil && !differs(name, id) {
			failed = errors.Join(failed, os.Remove(name))
		}
	}
	return failed
}

// outdated reports whether the file of the connection is known to have moved. It looks at the file now and then.
func (c *gatedConn) outdated() bool {
	t := &c.gate.tenants
	if c.era != t.era.Load() {
		return true
	}
	now, looked := time.Now().UnixNano(), t.looked.Load()
	if now-looked < int64(lookEvery) || !t.looked.CompareAndSwap(looked, now) || !differs(c.path, c.id) {
		return false
	}
	t.era.CompareAndSwap(c.era, c.era+1)
	return true
}

// ResetSession implements driver.SessionResetter. A connection whose file has moved is not used again.
func (c *gatedConn) ResetSession(ctx context.Context) error {
	c.mu.Lock()
	c.idle = false
	closed := c.closed
	c.mu.Unlock()
	if closed || c.outdated() {
		return driver.ErrBadConn
	}
	return c.sqliteConn.ResetSession(ctx)
}

// IsValid implements driver.Validator. The pool asks when a connection returns. A connection that returns inside a transaction is closed,
// because nothing can end the transaction any more. Closing rolls back and releases the gate.
func (c *gatedConn) IsValid() bool {
	if c.inside || c.era != c.gate.tenants.era.Load() || !c.sqliteConn.IsValid() {
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
	whole := c.id != nil && differs(c.path, c.id) && c.gate.tenants.last(c) && c.checkpoint()
	err = errors.Join(err, c.sqliteConn.Close())
	if whole {
		err = errors.Join(err, c.gate.tenants.clear(c.path))
	}
	return err
}

// checkpoint moves what the -wal holds into the file. It returns false if another process is in the way.
func (c *gatedConn) checkpoint() bool {
	if _, err := c.sqliteConn.ExecContext(context.Background(), "PRAGMA busy_timeout = 100", nil); err != nil {
		return false
	}
	rows, err := c.sqliteConn.QueryContext(context.Background(), "PRAGMA wal_checkpoint(TRUNCATE)", nil)
	if err != nil {
		return false
	}
	defer func() { _ = rows.Close() }()
	row := make([]driver.Value, len(rows.Columns()))
	if rows.Next(row) != nil || len(row) == 0 {
		return false
	}
	busy, ok := row[0].(int64)
	return ok && busy == 0
}
