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

// UnsafeError says that transactions of a pool fail under load, because a setting of its connections is missing.
type UnsafeError struct {
	// Setting is the missing setting in the DSN of modernc.org/sqlite, such as "_txlock=immediate".
	Setting string
	// Why says what goes wrong without the setting.
	Why string
}

// Error names the setting and what happens without it.
func (e *UnsafeError) Error() string {
	return fmt.Sprintf("the SQLite database is opened without %s: %s; add %s to the DSN, or use store/sqlite.Open",
		e.Setting, e.Why, e.Setting)
}

// shortestWait is the shortest busy_timeout that Check accepts. With less, writers fail that could have waited.
const shortestWait = time.Second

// Check reports whether dispatchers can safely share a pool that the application opened itself. It returns an
// [*UnsafeError] for the first setting that is missing:
//
//   - Without _pragma=journal_mode(WAL) readers and writers block one another.
//   - Without _pragma=busy_timeout(…) of at least one second a writer fails at once while another is at work.
//   - Without _txlock=immediate a transaction that reads before it writes fails with SQLITE_BUSY_SNAPSHOT (517) if
//     another one wrote in between. No timeout helps against that.
//
// To check the last one it begins a transaction and tries to begin another beside it. The pool must therefore allow
// two connections. Check takes the write lock for an instant and writes nothing. A pool that [Open] returned is safe.
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

// isOurs reports whether [Open] made the connection.
func isOurs(conn *sql.Conn) bool {
	ours := false
	_ = conn.Raw(func(c any) error {
		_, ours = c.(*gatedConn)
		return nil
	})
	return ours
}

// tries is how often checkBegin begins anew when other writers disturb it.
const tries = 5

// checkBegin checks that a transaction takes the write lock when it begins. A second connection must then fail to
// take the lock while the transaction lasts, and succeed afterwards.
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
	return nil // other writers hold the lock all the time: nothing was found
}

// beginBeside begins a transaction as an application does. It reports whether other can take the write lock
// meanwhile.
func beginBeside(ctx context.Context, db *sql.DB, other *sql.Conn) (bool, error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback() }()
	return begin(ctx, other)
}

// begin reports whether a connection can take the write lock, and releases the lock again.
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

// isCode reports whether an error has the given result code or one of its extended codes.
func isCode(err error, code int) bool {
	var coded interface{ Code() int }
	return errors.As(err, &coded) && coded.Code()&0xff == code
}

func isBusy(err error) bool { return isCode(err, sqliteBusy) }
