package store_test

import (
	"context"
	"database/sql"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
)

// A write that is broken off at any instant leaves no lock behind, even over a pool that the application opened itself.
func TestABrokenOffWriteHoldsNoLock(t *testing.T) {
	t.Parallel()
	dsn := "file:" + filepath.Join(t.TempDir(), "app.db") + "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(2000)&_txlock=immediate"
	s := migrated(t, opened(t, schema.SQLite)(sql.Open("sqlite", dsn)))
	other := opened(t, schema.SQLite)(sql.Open("sqlite", dsn))
	if _, err := other.ExecContext(t.Context(), "CREATE TABLE t (n integer)"); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for range 1500 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.Int64N(int64(200*time.Microsecond))))
		nobody := queue.Ref{ID: "01a21277-72b1-7a75-a3d3-17af614308ff", Seq: 1, Token: "01a21277-72b1-7a75-a3d3-17af614308fe"}
		if _, err := s.Fence(ctx, []queue.FencedRef{{Ref: nobody, Relay: "main"}}); err != nil {
			failed++
		}
		cancel()
		if _, err := other.ExecContext(t.Context(), "INSERT INTO t VALUES (1)"); err != nil {
			t.Fatalf("after %d writes that were broken off: %v", failed, err)
		}
	}
	if failed == 0 {
		t.Error("no write was broken off")
	}
}
