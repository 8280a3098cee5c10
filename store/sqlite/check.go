package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"
)

// UnsafeError says that a pool of connections is set up in a way in which transactions fail under load.
type UnsafeError struct {
	// Setting is what is missing in the DSN of modernc.org/sqlite, such as "_txlock=immediate".
	Setting string
	// Why says what happens without it.
	Why string
}

// Error names the setting and what happens without it.
func (e *UnsafeError) Error() string {
	return fmt.Sprintf("the SQLite database is opened without %s: %s; add %s to the DSN, or use store/sqlite.Open",
		e.Setting, e.Why, e.Setting)
}

// shortestWait is the busy_timeout below which writers fail that could have waited.
const shortestWait = time.Second

// Check finds out whether a pool that the application opened itself is safe to share with dispatchers, and returns an
// [*UnsafeError] for the first thing that is not:
//
//   - without _pragma=journal_mode(WAL) readers and writers keep each other out;
//   - without _pragma=busy_timeout(…) of a second at least a writer fails at once when another is at work;
//   - without _txlock=immediate a transaction that reads before it writes fails with SQLITE_BUSY_SNAPSHOT (517) whenever
//     somebody else wrote in between, and no timeout helps.
//
// For the last it begins a transaction and tries to begin another beside it, so the pool must allow two connections. It
// takes the write lock for an instant and writes nothing. A pool that [Open] returned is safe.
func Check(ctx context.Context, db *sql.DB) error {
	if err := check(ctx, db); err != nil {
		return fmt.Errorf("check the SQLite database: %w", err)
	}
	return nil
}

func check(ctx context.Context, db *sql.DB) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if isOurs(conn) {
		return nil
	}
	var (
		journal string
		wait    int64
	)
	if err := conn.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&journal); err != nil {
		return err
	}
	if !strings.EqualFold(journal, "wal") {
		return &UnsafeError{Setting: "_pragma=journal_mode(WAL)", Why: "readers and writers keep each other out (journal mode " + journal + ")"}
	}
	if err := conn.QueryRowContext(ctx, "PRAGMA busy_timeout").Scan(&wait); err != nil {
		return err
	}
	if wait < shortestWait.Milliseconds() {
		return &UnsafeError{
			Setting: "_pragma=busy_timeout(10000)",
			Why:     fmt.Sprintf("a writer waits only %d ms for another and fails then with SQLITE_BUSY", wait),
		}
	}
	return checkBegin(ctx, db, conn, wait)
}

// isOurs says whether a connection was made by Open.
func isOurs(conn *sql.Conn) bool {
	ours := false
	_ = conn.Raw(func(c any) error {
		_, ours = c.(*gatedConn)
		return nil
	})
	return ours
}

// tries is how often checkBegin begins anew when other writers confuse it.
const tries = 5

// checkBegin sees whether a transaction takes the write lock when it begins: then another cannot, and can when it has ended.
func checkBegin(ctx context.Context, db *sql.DB, other *sql.Conn, wait int64) (err error) {
	setWait := func(ctx context.Context, ms int64) error {
		_, err := other.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", ms))
		return err
	}
	if err := setWait(ctx, 0); err != nil {
		return err
	}
	defer func() {
		if restore := setWait(context.WithoutCancel(ctx), wait); restore != nil {
			_ = other.Raw(func(any) error { return driver.ErrBadConn })
			err = errors.Join(err, restore)
		}
	}()
	for range tries {
		beside, err := beginBeside(ctx, db, other)
		if err != nil {
			return err
		}
		if beside {
			return &UnsafeError{
				Setting: "_txlock=immediate",
				Why:     "a transaction that reads before it writes fails with SQLITE_BUSY_SNAPSHOT when somebody else wrote in between",
			}
		}
		if free, err := begin(ctx, other); err != nil || free {
			return err // it was the transaction that kept the lock
		}
	}
	return nil // others write all the time: nothing was found
}

// beginBeside begins a transaction as an application does and says whether another can take the write lock beside it.
func beginBeside(ctx context.Context, db *sql.DB, other *sql.Conn) (bool, error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback() }()
	return begin(ctx, other)
}

// begin says whether the connection can take the write lock, and gives it back.
func begin(ctx context.Context, conn *sql.Conn) (bool, error) {
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		if isBusy(err) {
			return false, nil
		}
		return false, err
	}
	_, err := conn.ExecContext(ctx, "ROLLBACK")
	return true, err
}

// The primary result codes (SQLITE_BUSY …) that this package tells apart.
const (
	sqliteBusy    = 5
	sqliteCorrupt = 11
	sqliteNotADB  = 26
)

// isCode recognises a result code and its extended codes.
func isCode(err error, code int) bool {
	var coded interface{ Code() int }
	return errors.As(err, &coded) && coded.Code()&0xff == code
}

func isBusy(err error) bool { return isCode(err, sqliteBusy) }
