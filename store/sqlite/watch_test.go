package sqlite_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox/store/sqlite"
)

// A watcher is woken by the commits of other pools, which stand for other processes, and by nothing else.
func TestWatch(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "app.db")
	app, watched := openWith(t, path), openWith(t, path)
	exec(t, app, "CREATE TABLE orders (n integer)")

	ctx, cancel := context.WithCancel(t.Context())
	wakes, done := make(chan struct{}, 100), make(chan error, 1)
	go func() { done <- sqlite.Watch(watched)(ctx, func() { wakes <- struct{}{} }) }()
	woken := func(why string) {
		t.Helper()
		select {
		case <-wakes:
		case <-time.After(10 * time.Second):
			t.Fatalf("not woken %s", why)
		}
	}
	woken("when it begins")
	for range 3 {
		exec(t, app, "INSERT INTO orders VALUES (1)")
		woken("by a commit of another pool")
	}
	exec(t, watched, "INSERT INTO orders VALUES (1)")
	woken("by a commit of another connection")

	tx, err := app.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, tx, "INSERT INTO orders VALUES (2)")
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := app.QueryRowContext(t.Context(), "SELECT count(*) FROM orders").Scan(&n); err != nil || n != 4 {
		t.Fatalf("%d orders (%v)", n, err)
	}
	exec(t, app, "INSERT INTO orders VALUES (3)")
	woken("by the commit after a rollback")
	select {
	case <-wakes:
		t.Error("woken by a transaction that was rolled back, or by a reader")
	case <-time.After(100 * time.Millisecond): // long enough for several looks
	}

	cancel()
	if err := <-done; err != nil {
		t.Errorf("a watcher that is told to stop returns %v", err)
	}
}

func TestWatchEndsWithAnError(t *testing.T) {
	t.Parallel()
	db := openWith(t, filepath.Join(t.TempDir(), "app.db"))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sqlite.Watch(db)(t.Context(), func() {}); err == nil {
		t.Error("a watcher of a closed pool returns no error")
	}
}

func TestWatchRefusesAPoolOfOne(t *testing.T) {
	t.Parallel()
	db := openWith(t, filepath.Join(t.TempDir(), "app.db"))
	db.SetMaxOpenConns(1)
	if err := sqlite.Watch(db)(t.Context(), func() {}); err == nil || !strings.Contains(err.Error(), "one connection") {
		t.Errorf("the error is %v", err)
	}
}

func BenchmarkLook(b *testing.B) {
	db, err := sqlite.Open(filepath.Join(b.TempDir(), "app.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	conn, err := db.Conn(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	stmt, err := conn.PrepareContext(b.Context(), "PRAGMA data_version")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = stmt.Close() }()
	for b.Loop() {
		var v int64
		if err := stmt.QueryRowContext(b.Context()).Scan(&v); err != nil {
			b.Fatal(err)
		}
	}
}
