package sqlite_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxmail/outbox/store/sqlite"
)

func open(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sqlite.Open(path, sqlite.RelaxedSync())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// Sixty-four writers share two pools of one file, and each of their transactions reads first. None fails, and each
// one gets its turn.
func TestWritersQueue(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "app.db")
	pools := []*sql.DB{open(t, path), open(t, path)}
	exec(t, pools[0], "CREATE TABLE counter (n integer)")
	exec(t, pools[0], "INSERT INTO counter VALUES (0)")
	const writers, turns = 64, 10
	var wg sync.WaitGroup
	for i := range writers {
		db := pools[i%len(pools)]
		wg.Go(func() {
			for range turns {
				if err := increment(t.Context(), db); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	var n int
	if err := pools[0].QueryRowContext(t.Context(), "SELECT n FROM counter").Scan(&n); err != nil || n != writers*turns {
		t.Errorf("the counter says %d (%v), want %d", n, err, writers*turns)
	}
}

func increment(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	var n int
	if err := tx.QueryRowContext(ctx, "SELECT n FROM counter").Scan(&n); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "UPDATE counter SET n = ?", n+1); err != nil {
		return err
	}
	return tx.Commit()
}

// Everything that takes the write lock releases the gate, however it ends. The next writer does not wait for it.
func TestTheGateIsGivenBack(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(ctx context.Context, db *sql.DB) error{
		"commit": func(ctx context.Context, db *sql.DB) error {
			tx, err := db.BeginTx(ctx, nil)
			return errors.Join(err, tx.Commit())
		},
		"rollback": func(ctx context.Context, db *sql.DB) error {
			tx, err := db.BeginTx(ctx, nil)
			return errors.Join(err, tx.Rollback())
		},
		"a context that ends": func(ctx context.Context, db *sql.DB) error {
			ctx, cancel := context.WithCancel(ctx)
			tx, err := db.BeginTx(ctx, nil)
			cancel()
			_ = tx.Rollback()
			return err
		},
		"a statement": func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, "INSERT INTO t VALUES (1)")
			return err
		},
		"a statement that fails": func(ctx context.Context, db *sql.DB) error {
			if _, err := db.ExecContext(ctx, "INSERT INTO nowhere VALUES (1)"); err == nil {
				return errors.New("the statement did not fail")
			}
			return nil
		},
		"typed by hand": func(ctx context.Context, db *sql.DB) error {
			c, err := db.Conn(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			for _, statement := range []string{"BEGIN IMMEDIATE", "SAVEPOINT s", "INSERT INTO t VALUES (1)", "ROLLBACK TO s", "-- enough\n COMMIT"} {
				if _, err := c.ExecContext(ctx, statement); err != nil {
					return err
				}
			}
			return nil
		},
		"a script with a whole transaction": func(ctx context.Context, db *sql.DB) error {
			for range 2 {
				if _, err := db.ExecContext(ctx, "BEGIN; INSERT INTO t VALUES (1); COMMIT;"); err != nil {
					return err
				}
			}
			return nil
		},
		"a script that fails inside its transaction": func(ctx context.Context, db *sql.DB) error {
			for range 2 {
				if _, err := db.ExecContext(ctx, "BEGIN; INSERT INTO nowhere VALUES (1); COMMIT;"); err == nil {
					return errors.New("the script did not fail")
				}
			}
			return nil
		},
		"a transaction that nobody ends": func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, "BEGIN IMMEDIATE")
			return err
		},
		"a transaction that SQLite rolled back": func(ctx context.Context, db *sql.DB) error {
			c, err := db.Conn(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			if _, err := c.ExecContext(ctx, "CREATE TABLE u (n integer PRIMARY KEY)"); err != nil {
				return err
			}
			if _, err := c.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
				return err
			}
			_, _ = c.ExecContext(ctx, "INSERT INTO u VALUES (1)")
			if _, err := c.ExecContext(ctx, "INSERT OR ROLLBACK INTO u VALUES (1)"); err == nil {
				return errors.New("a duplicate is taken")
			}
			if _, err := c.ExecContext(ctx, "ROLLBACK"); err == nil {
				return errors.New("there was something left to roll back")
			}
			return nil
		},
		"a connection that is closed inside": func(ctx context.Context, db *sql.DB) error {
			c, err := db.Conn(ctx)
			if err != nil {
				return err
			}
			_, err = c.ExecContext(ctx, "BEGIN IMMEDIATE")
			_ = c.Raw(func(any) error { return driver.ErrBadConn })
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t, filepath.Join(t.TempDir(), "app.db"))
			exec(t, db, "CREATE TABLE t (n integer)")
			if err := use(t.Context(), db); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if _, err := db.ExecContext(ctx, "INSERT INTO t VALUES (2)"); err != nil {
				t.Errorf("the next writer: %v", err)
			}
		})
	}
}

// The first connection of a second pool does not wait for a writer of the first.
func TestASecondPoolReadsBesideAWriter(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "app.db")
	first := open(t, path)
	exec(t, first, "CREATE TABLE t (n integer)")
	tx, err := first.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var n int
	if err := open(t, path).QueryRowContext(ctx, "SELECT count(*) FROM t").Scan(&n); err != nil {
		t.Error(err)
	}
}

// Readers do not queue. A writer that waits in vain gets an error that says why.
func TestTheGateWhileATransactionIsOpen(t *testing.T) {
	t.Parallel()
	db := open(t, filepath.Join(t.TempDir(), "app.db"))
	exec(t, db, "CREATE TABLE t (n integer)")
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	var n int
	if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM t").Scan(&n); err != nil {
		t.Errorf("a reader beside a writer: %v", err)
	}
	reading, err := db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Errorf("a read-only transaction beside a writer: %v", err)
	} else if err := reading.Rollback(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := db.ExecContext(ctx, "INSERT INTO t VALUES (1)"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a writer whose context ends: %v", err)
	}
	began := time.Now()
	if _, err := db.ExecContext(t.Context(), "INSERT INTO t VALUES (1)"); err == nil || !strings.Contains(err.Error(), "database is locked") {
		t.Errorf("a second writer after %v: %v", time.Since(began), err)
	}
}
