package sqlite_test

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/outboxmail/outbox/store/sqlite"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	const wal, busy, immediate = "_pragma=journal_mode(WAL)", "_pragma=busy_timeout(5000)", "_txlock=immediate"
	for _, test := range []struct {
		name, query, setting string
	}{
		{"nothing set", "", "_pragma=journal_mode(WAL)"},
		{"no busy_timeout", wal + "&" + immediate, "_pragma=busy_timeout(10000)"},
		{"a short busy_timeout", wal + "&" + immediate + "&_pragma=busy_timeout(100)", "_pragma=busy_timeout(10000)"},
		{"deferred", wal + "&" + busy, "_txlock=immediate"},
		{"deferred by name", wal + "&" + busy + "&_txlock=deferred", "_txlock=immediate"},
		{"safe", wal + "&" + busy + "&" + immediate, ""},
		{"exclusive", wal + "&" + busy + "&_txlock=exclusive", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "app.db")+"?"+test.query)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = db.Close() }()
			for range 2 { // it leaves the pool as it was
				err = sqlite.Check(t.Context(), db)
				if test.setting == "" {
					if err != nil {
						t.Errorf("a safe pool: %v", err)
					}
					continue
				}
				var unsafe *sqlite.UnsafeError
				if !errors.As(err, &unsafe) || unsafe.Setting != test.setting || strings.Count(err.Error(), test.setting) != 2 {
					t.Errorf("the error is %v, want one about %s", err, test.setting)
				}
			}
		})
	}
}

func TestCheckOfOpen(t *testing.T) {
	t.Parallel()
	db := openWith(t, filepath.Join(t.TempDir(), "app.db"))
	db.SetMaxOpenConns(1) // it needs no second connection
	if err := sqlite.Check(t.Context(), db); err != nil {
		t.Error(err)
	}
}

// Other writers do not make an unsafe pool look safe, nor a safe one unsafe.
func TestCheckBesideWriters(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "app.db")
	writer := openWith(t, path)
	exec(t, writer, "CREATE TABLE t (n integer)")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := writer.ExecContext(t.Context(), "INSERT INTO t VALUES (1)"); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	safe, err := sql.Open("sqlite", path+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = safe.Close() }()
	for range 20 {
		if err := sqlite.Check(t.Context(), safe); err != nil {
			t.Errorf("a safe pool: %v", err)
			break
		}
	}
	close(stop)
	wg.Wait()
}

// The first statement, whichever it is, names a file that is no database or only half of one.
func TestNotADatabase(t *testing.T) {
	t.Parallel()
	whole := filepath.Join(t.TempDir(), "whole.db")
	db := openWith(t, whole)
	exec(t, db, "PRAGMA journal_mode = DELETE")
	exec(t, db, "CREATE TABLE t (n integer)")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, content, says string }{
		{"text", strings.Repeat("this is no database\n", 100), "is not an SQLite database"},
		{"header cut", string(good[:50]), "is damaged"},
		{"header scrambled", "SQLite format 3\x00" + strings.Repeat("\xff", len(good)-16), "is not an SQLite database"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "app.db")
			if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			db := openWith(t, path, sqlite.Existing())
			var n int
			first := db.QueryRowContext(t.Context(), "SELECT 1").Scan(&n)
			_, second := db.ExecContext(t.Context(), "CREATE TABLE t (n integer)")
			for _, err := range []error{first, second, sqlite.Check(t.Context(), db)} {
				if err == nil || !strings.Contains(err.Error(), path+" "+test.says) {
					t.Errorf("the error is %v, want one that says that %s %s", err, path, test.says)
				}
			}
			if content, err := os.ReadFile(path); err != nil || string(content) != test.content {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
}
