package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/outboxmail/outbox/queue"
)

// The pauses between two looks of a watcher: lookOften while the file changes, lookSeldom once it has been unchanged
// for the time quiet. A look costs some microseconds, takes no lock and reads no page of the file.
const (
	lookOften  = 2 * time.Millisecond
	lookSeldom = 5 * time.Millisecond
	quiet      = time.Second
)

// lookAtFile is the time between two looks at the file itself.
const lookAtFile = 250 * time.Millisecond

// Watch returns a function that calls wake after commits to the file, by any process and any connection but its own.
// The function runs until ctx ends and then returns nil. It reads PRAGMA data_version: no table is read, and no lock
// taken. Several commits may cause one call. It also calls wake once when it begins. After an error it may be called
// again.
//
// The function holds one connection of the pool all the time. The pool must therefore allow at least two, or
// everybody else would wait for ever. It refuses a pool that SetMaxOpenConns(1) limits to one.
//
// If the file is replaced, removed or renamed, the function returns a [*queue.MovedError].
func Watch(db *sql.DB) func(ctx context.Context, wake func()) error {
	return func(ctx context.Context, wake func()) error {
		err := watch(ctx, db, wake)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to stop
		}
		return err
	}
}

func watch(ctx context.Context, db *sql.DB, wake func()) error {
	if db.Stats().MaxOpenConnections == 1 {
		return errors.New("watch the SQLite file: the pool allows one connection only: give the watcher a pool of its own")
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("watch the SQLite file: %w", err)
	}
	defer func() { _ = conn.Close() }()
	var path string
	if err := conn.QueryRowContext(ctx, "SELECT file FROM pragma_database_list WHERE name = 'main'").Scan(&path); err != nil {
		return fmt.Errorf("watch the SQLite file: %w", err)
	}
	id, err := identify(path)
	if err != nil {
		return fmt.Errorf("watch the SQLite file: %w", err)
	}
	stmt, err := conn.PrepareContext(ctx, "PRAGMA data_version")
	if err != nil {
		return fmt.Errorf("watch the SQLite file: %w", err)
	}
	defer func() { _ = stmt.Close() }()
	var (
		last    int64 = -1
		changed time.Time
		looked  = time.Now()
		timer   = time.NewTimer(0)
	)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-timer.C:
			version, err := dataVersion(ctx, stmt)
			if err != nil {
				return fmt.Errorf("watch the SQLite file: %w", err)
			}
			if now.Sub(looked) > lookAtFile {
				looked = now
				if differs(path, id) {
					_, err := os.Stat(path)
					return fmt.Errorf("watch the SQLite file: %w", &queue.MovedError{Path: path, Gone: err != nil})
				}
			}
			if version != last {
				last, changed = version, now
				wake()
			}
			if now.Sub(changed) < quiet {
				timer.Reset(lookOften)
			} else {
				timer.Reset(lookSeldom)
			}
		}
	}
}

func dataVersion(ctx context.Context, stmt *sql.Stmt) (version int64, err error) {
	var v sql.NullInt64
	err = stmt.QueryRowContext(ctx).Scan(&v)
	return v.Int64, err
}
