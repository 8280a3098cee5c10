package sqlite_test

import (
	"context"
	"database/sql"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/outboxmail/outbox/store/sqlite"
)

// If the context ends during a BEGIN, the driver reports a failure even if the BEGIN took effect. The caller then has
// no transaction to end, and the connection returns to the pool. It must not hold the lock there.
func TestAFailedBeginHoldsNoLock(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(ctx context.Context, db *sql.DB) error{
		"BeginTx": func(ctx context.Context, db *sql.DB) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			return tx.Rollback()
		},
		"statement": func(ctx context.Context, db *sql.DB) error {
			c, err := db.Conn(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			if _, err := c.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
				return err
			}
			_, err = c.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "app.db")
			db, err := sqlite.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = db.Close() }()
			if _, err := db.ExecContext(t.Context(), "CREATE TABLE t (n integer)"); err != nil {
				t.Fatal(err)
			}
			other, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(2000)")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = other.Close() }()
			failed := 0
			for range 300 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.Int64N(int64(200*time.Microsecond))))
				if begin(ctx, db) != nil {
					failed++
				}
				cancel()
				if _, err := other.ExecContext(t.Context(), "INSERT INTO t VALUES (1)"); err != nil {
					t.Fatalf("after %d failures to begin: %v", failed, err)
				}
			}
			if failed == 0 {
				t.Error("no BEGIN failed")
			}
		})
	}
}
