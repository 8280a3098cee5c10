package outboxtest_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/outboxtest"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
)

// failing is a TB that records how the test failed.
type failing struct {
	t        *testing.T
	cleanups []func()
	said     string
}

func (f *failing) Helper()                  {}
func (f *failing) Cleanup(fn func())        { f.cleanups = append(f.cleanups, fn) }
func (f *failing) Context() context.Context { return f.t.Context() }

// Fatalf ends the goroutine, as that of a testing.T does.
func (f *failing) Fatalf(format string, args ...any) {
	f.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// fails runs fn with a TB of its own. It wants fn to fail with words that contain all of says.
func fails(t *testing.T, fn func(t outboxtest.TB), says ...string) {
	t.Helper()
	f := &failing{t: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn(f)
	}()
	<-done
	for _, cleanup := range slices.Backward(f.cleanups) {
		cleanup()
	}
	for _, want := range says {
		if !strings.Contains(f.said, want) {
			t.Errorf("the failure says %q, want %q", f.said, want)
		}
	}
	if f.said == "" {
		t.Error("the test does not fail")
	}
}

// database is what an application writes to and what a test looks into.
type database interface {
	outboxtest.Queryer
	outbox.Execer
}

// onBoth runs a test on SQLite and on PostgreSQL, each time with an empty database.
func onBoth(t *testing.T, test func(t *testing.T, db database, queue *store.Store)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		app, queue := open(t)
		test(t, app.db, queue)
	})
	t.Run("postgres", func(t *testing.T) {
		db, err := postgres.Open(pgtest.DSN(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		if err := schema.Migrate(t.Context(), db, schema.Postgres); err != nil {
			t.Fatal(err)
		}
		queue, err := store.New(db, schema.Postgres)
		if err != nil {
			t.Fatal(err)
		}
		test(t, db, queue)
	})
}

// enqueue enqueues a message in a transaction of its own.
func enqueue(t *testing.T, db outbox.Execer, msg *outbox.Message) outbox.ID {
	t.Helper()
	receipt, err := outbox.Enqueue(t.Context(), outbox.InTx(struct{ outbox.Execer }{db}), msg)
	if err != nil {
		t.Fatal(err)
	}
	return receipt.ID
}
