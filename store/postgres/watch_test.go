package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
)

func migrated(t *testing.T, dsn string) (*sql.DB, *store.Store) {
	t.Helper()
	db, err := postgres.Open(dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := schema.Migrate(t.Context(), db, schema.Postgres); err != nil {
		t.Fatal(err)
	}
	s, err := store.New(db, schema.Postgres)
	if err != nil {
		t.Fatal(err)
	}
	return db, s
}

// enqueue stores messages in a transaction and ends it.
func enqueue(t *testing.T, db *sql.DB, n int, commit bool) {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		_, err := outbox.Enqueue(t.Context(), tx, &outbox.Message{
			From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}}, Text: "x",
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	end := tx.Rollback
	if commit {
		end = tx.Commit
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
}

func TestWatch(t *testing.T) {
	dsn := pgtest.DSN(t)
	db, s := migrated(t, dsn)
	for range 2 {
		if err := s.EnableNotify(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	wakes, done := make(chan struct{}, 100), make(chan error, 1)
	go func() { done <- postgres.Watch(dsn)(ctx, func() { wakes <- struct{}{} }) }()
	woken := func(why string) {
		t.Helper()
		select {
		case <-wakes:
		case <-time.After(20 * time.Second):
			t.Fatalf("not woken %s", why)
		}
	}
	quiet := func(why string) {
		t.Helper()
		select {
		case <-wakes:
			t.Errorf("woken %s", why)
		case <-time.After(100 * time.Millisecond):
		}
	}
	woken("when it is connected")
	enqueue(t, db, 1, true)
	woken("by a transaction that enqueued")
	enqueue(t, db, 50, true)
	woken("by a transaction that enqueued much")
	quiet("more than once by one transaction")
	enqueue(t, db, 1, false)
	quiet("by a transaction that was rolled back")
	for range 2 {
		if err := s.DisableNotify(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	enqueue(t, db, 1, true)
	quiet("without the trigger")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("a watcher that is told to stop returns %v", err)
	}
	_ = db.Close()
	goleak.VerifyNone(t, goleak.IgnoreTopFunction("testing.(*T).Parallel"), goleak.IgnoreTopFunction("testing.runTests"))
}

// A watcher is woken by its own outbox, whether it is named or found by the search path. Another outbox in the same
// database does not wake it.
func TestWatchOneSchemaOfTwo(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	db, public := migrated(t, dsn)
	if err := schema.Migrate(t.Context(), db, schema.Postgres, schema.In("mail")); err != nil {
		t.Fatal(err)
	}
	mail, err := store.New(db, schema.Postgres, store.Schema("mail"))
	if err != nil {
		t.Fatal(err)
	}
	box, err := outbox.New(outbox.Config{Schema: "mail"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wakes := map[string]chan struct{}{"public": make(chan struct{}, 10), "mail": make(chan struct{}, 10)}
	for name, watch := range map[string]func(context.Context, func()) error{
		"public": postgres.Watch(dsn), "mail": postgres.Watch(dsn, postgres.Schema("mail")),
	} {
		wg.Go(func() {
			if err := watch(ctx, func() { wakes[name] <- struct{}{} }); err != nil {
				t.Errorf("the watcher of %s: %v", name, err)
			}
		})
		<-wakes[name] // it is connected
	}
	for _, s := range []*store.Store{public, mail} {
		if err := s.EnableNotify(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// Notifications arrive in the order of the commits. A watcher that its own outbox woke was not woken by the others
	// before.
	for range 3 {
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = box.Enqueue(t.Context(), tx, &outbox.Message{
			From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}}, Text: "x",
		})
		if err = errors.Join(err, tx.Commit()); err != nil {
			t.Fatal(err)
		}
		<-wakes["mail"]
	}
	enqueue(t, db, 1, true)
	<-wakes["public"]
	if err := mail.DisableNotify(t.Context()); err != nil {
		t.Fatal(err)
	}
	enqueue(t, db, 1, true) // the other trigger is still there
	<-wakes["public"]
	cancel()
	wg.Wait()
	for name, c := range wakes {
		if len(c) != 0 {
			t.Errorf("the watcher of %s was woken by the other outbox", name)
		}
	}
}

func TestWatchRefusesANameOfPostgres(t *testing.T) {
	t.Parallel()
	err := postgres.Watch("postgres://localhost/app", postgres.Schema("pg_mail"))(t.Context(), func() { t.Error("woken") })
	if err == nil || !strings.Contains(err.Error(), "belongs to PostgreSQL") {
		t.Errorf("the error is %v", err)
	}
}

func TestWatchSaysWhyItEnded(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	db, _ := migrated(t, dsn)
	connected, done := make(chan struct{}, 1), make(chan error, 1)
	go func() { done <- postgres.Watch(dsn)(t.Context(), func() { connected <- struct{}{} }) }()
	<-connected
	var n int
	err := db.QueryRowContext(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND query LIKE 'LISTEN%'`).Scan(&n)
	if err != nil || n != 1 {
		t.Fatalf("%d listeners terminated (%v)", n, err)
	}
	select {
	case err := <-done:
		if err == nil {
			t.Error("a watcher whose connection was lost returns no error")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a watcher whose connection was lost does not return")
	}
}

func TestWatchThatCannotConnect(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	_, rest, _ := strings.Cut(dsn, "@")
	err := postgres.Watch("postgres://postgres:"+password+"@"+rest)(t.Context(), func() { t.Error("woken") })
	if err == nil || !strings.Contains(err.Error(), "authentication") || strings.Contains(err.Error(), password) {
		t.Errorf("with a wrong password: %v", err)
	}
	err = postgres.Watch("postgres://ann:"+password+"@x:port/")(t.Context(), func() {})
	if err == nil || strings.Contains(err.Error(), password) {
		t.Errorf("with a bad DSN: %v", err)
	}
}

// A watcher stops even if its server accepts the connection and says nothing.
func TestWatchStopsWhileItConnects(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			accepted <- c
			cancel()
		}
	}()
	if err := postgres.Watch("postgres://ann@"+l.Addr().String()+"/app?sslmode=disable")(ctx, func() {}); err != nil {
		t.Errorf("a watcher that is told to stop returns %v", err)
	}
	_ = (<-accepted).Close()
}

func TestNotifyIsForPostgresAlone(t *testing.T) {
	t.Parallel()
	db, err := sql.Open("postgres", "postgres://localhost/app")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	s, err := store.New(db, schema.SQLite)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.EnableNotify(t.Context()); !errors.Is(err, store.ErrNoNotify) {
		t.Errorf("on SQLite: %v", err)
	}
}
