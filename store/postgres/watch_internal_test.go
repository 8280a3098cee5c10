package postgres

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/outboxmail/outbox/internal/pgtest"
)

// A watcher connects anew when the life of its connection ends, wakes each time, and hears what is notified afterwards.
func TestWatchConnectsAnew(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	complete, err := completeDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	pid := func() (pid int) {
		t.Helper()
		if err := db.QueryRowContext(t.Context(), "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%' ORDER BY backend_start DESC LIMIT 1").Scan(&pid); err != nil {
			t.Fatal(err)
		}
		return pid
	}
	w := watcher{dsn: dsn, schema: "public", life: 500 * time.Millisecond}
	wakes := make(chan struct{}, 10)
	wake := func() { wakes <- struct{}{} }
	done := make(chan error, 1)
	go func() { done <- w.listen(t.Context(), complete, wake) }()
	<-wakes
	first := pid()
	if err := <-done; err != nil {
		t.Fatalf("the end of a connection's life is an error: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.life = time.Minute
	go func() { done <- w.watch(ctx, wake) }()
	<-wakes
	if pid() == first {
		t.Error("it is the same connection")
	}
	if _, err := db.ExecContext(t.Context(), "SELECT pg_notify($1, 'public')", Channel); err != nil {
		t.Fatal(err)
	}
	<-wakes
	cancel()
	if err := <-done; ctx.Err() == nil {
		t.Error(err)
	}
}
