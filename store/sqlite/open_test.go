package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/store/sqlite"
)

func openWith(t *testing.T, path string, opts ...sqlite.Option) *sql.DB {
	t.Helper()
	db, err := sqlite.Open(path, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func pragma(t *testing.T, c interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}, name string) string {
	t.Helper()
	var value string
	if err := c.QueryRowContext(t.Context(), "PRAGMA "+name).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func exec(t *testing.T, c outbox.Execer, query string, args ...any) {
	t.Helper()
	if _, err := c.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// A PRAGMA that runs on a pool sets one connection only. The settings must hold on all connections.
func TestEveryConnectionIsSetUp(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		opts        []sqlite.Option
		synchronous string
	}{"default": {nil, "2"}, "relaxed": {[]sqlite.Option{sqlite.RelaxedSync()}, "1"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := openWith(t, filepath.Join(t.TempDir(), "app.db"), test.opts...)
			for range 5 {
				conn, err := db.Conn(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close() }() // held, so that the next one is new
				for name, want := range map[string]string{
					"journal_mode": "wal", "busy_timeout": "10000", "foreign_keys": "1", "synchronous": test.synchronous,
				} {
					if got := pragma(t, conn, name); got != want {
						t.Errorf("%s is %s, want %s", name, got, want)
					}
				}
			}
		})
	}
}

// A transaction that reads and then writes waits for another writer, because it takes the lock when it begins. A
// deferred transaction, the default of SQLite, fails here at once with SQLITE_BUSY_SNAPSHOT.
func TestTransactionsTakeTheLockWhenTheyBegin(t *testing.T) {
	t.Parallel()
	db := openWith(t, filepath.Join(t.TempDir(), "app.db"))
	exec(t, db, "CREATE TABLE counters (n integer)")
	exec(t, db, "INSERT INTO counters VALUES (0)")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				tx, err := db.BeginTx(t.Context(), nil)
				if err != nil {
					t.Error(err)
					return
				}
				var n int
				if err := tx.QueryRowContext(t.Context(), "SELECT n FROM counters").Scan(&n); err != nil {
					t.Error(err)
				}
				if _, err := tx.ExecContext(t.Context(), "UPDATE counters SET n = $1", n+1); err != nil {
					t.Error(err)
				}
				if err := tx.Commit(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var n int
	if err := db.QueryRowContext(t.Context(), "SELECT n FROM counters").Scan(&n); err != nil || n != 80 {
		t.Fatalf("the counter stands at %d (%v), want 80", n, err)
	}
}

func TestPathsAreFileNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"app.db", "with space.db", "what?.db", "100%.db", "%41.db", "a#b.db", "a&mode=memory.db", "ünï 🎉.db", "it's.db",
		"a;b.db", "a+b.db", "a:b.db",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			db := openWith(t, filepath.Join(dir, name))
			exec(t, db, "CREATE TABLE orders (n integer)")
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			again := openWith(t, filepath.Join(dir, name), sqlite.Existing())
			exec(t, again, "INSERT INTO orders VALUES (1)")
			if mode := pragma(t, again, "journal_mode"); mode != "wal" {
				t.Fatalf("journal_mode is %s", mode)
			}
		})
	}
}

func TestRelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, name := range []string{"app.db", "./other.db", "a:b.db"} {
		exec(t, openWith(t, name), "CREATE TABLE orders (n integer)")
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, test := range []struct {
		name, path, says string
		opts             []sqlite.Option
	}{
		{"nothing", "", "no file name", nil},
		{"memory", ":memory:", "not a file name", nil},
		{"a DSN", "file:app.db?mode=memory", "not a file name", nil},
		{"a folder", dir, "is a folder", nil},
		{"a missing file that must exist", filepath.Join(dir, "missing.db"), "no such file", []sqlite.Option{sqlite.Existing()}},
		{"a file in a missing folder", filepath.Join(dir, "missing", "app.db"), "no such folder", nil},
		{"a NUL", "a\x00b.db", "not a file name", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := sqlite.Open(test.path, test.opts...)
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("the error is %v, want one that says %q", err, test.says)
			}
		})
	}
	if _, err := sqlite.Open(filepath.Join(dir, "missing.db"), sqlite.Existing()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file is not fs.ErrNotExist: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "missing.db")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused file was created: %v", err)
	}
}
