package sqlite_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jmoiron/sqlx"

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
			db, err := sqlx.Open("sqlite", filepath.Join(t.TempDir(), "app.db")+"?"+test.query)
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
	safe, err := sqlx.Open("sqlite", path+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_txlock=immediate")
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

func TestNotADatabase(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(path, []byte(strings.Repeat("this is no database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	db := openWith(t, path, sqlite.Existing())
	var n int
	if err := db.GetContext(t.Context(), &n, "SELECT 1"); err == nil || !strings.Contains(err.Error(), "not a database") {
		t.Errorf("the error is %v", err)
	}
}
