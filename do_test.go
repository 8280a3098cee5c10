package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"runtime"
	"slices"
	"testing"

	"github.com/outboxmail/outbox"
)

// Do commits what fn did and wakes after that; whatever goes wrong, nothing is stored and nobody is woken, and the connection
// can be used again.
func TestDo(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		d.db.SetMaxOpenConns(1) // a transaction that is left open keeps everything else waiting
		count := func() (n int) {
			t.Helper()
			if err := d.db.QueryRowContext(t.Context(), "SELECT count(*) FROM outbox_messages").Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		enqueue := func(ctx context.Context, tx *sql.Tx) error {
			_, err := outbox.Enqueue(ctx, tx, &outbox.Message{
				From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}}, Text: "x",
			})
			return err
		}
		var woken []string
		wake := func(name string) func() {
			return func() {
				if count() != 1 {
					t.Errorf("%s is woken before the commit", name)
				}
				woken = append(woken, name)
			}
		}

		mine := errors.New("mine")
		if err := outbox.Do(t.Context(), d.db, func(tx *sql.Tx) error {
			return errors.Join(enqueue(t.Context(), tx), mine)
		}, wake("after an error")); !errors.Is(err, mine) || errors.Is(err, sql.ErrTxDone) {
			t.Errorf("the error is %v, want that of the function", err)
		}
		func() {
			defer func() {
				if recover() != "mine" {
					t.Error("the panic did not go on")
				}
			}()
			_ = outbox.Do(t.Context(), d.db, func(tx *sql.Tx) error {
				if err := enqueue(t.Context(), tx); err != nil {
					t.Error(err)
				}
				panic("mine")
			}, wake("after a panic"))
		}()
		if err := outbox.Do(t.Context(), d.db, func(tx *sql.Tx) error {
			return errors.Join(enqueue(t.Context(), tx), tx.Rollback())
		}, wake("after a failed commit")); !errors.Is(err, sql.ErrTxDone) {
			t.Errorf("the error is %v, want that of the commit", err)
		}
		cancelled, cancel := context.WithCancel(t.Context())
		if err := outbox.Do(cancelled, d.db, func(tx *sql.Tx) error {
			defer cancel()
			return enqueue(cancelled, tx)
		}, wake("after the end of the context")); !errors.Is(err, context.Canceled) {
			t.Errorf("the error is %v, want that of the context", err)
		}
		if err := outbox.Do(cancelled, d.db, func(*sql.Tx) error {
			t.Error("called without a transaction")
			return nil
		}); !errors.Is(err, context.Canceled) {
			t.Errorf("the error is %v, want that of the begin", err)
		}
		if n := count(); n != 0 || woken != nil {
			t.Errorf("%d messages stored, %v woken, want none", n, woken)
		}

		if err := outbox.Do(t.Context(), d.db, func(tx *sql.Tx) error {
			return enqueue(t.Context(), tx)
		}, wake("first"), nil, wake("second")); err != nil {
			t.Error(err)
		}
		if n := count(); n != 1 || !slices.Equal(woken, []string{"first", "second"}) {
			t.Errorf("%d messages stored, %v woken, want one and both", n, woken)
		}
	})
}

// A goroutine that fn ends, as t.FailNow does, leaves no transaction behind.
func TestDoInAGoroutineThatEnds(t *testing.T) {
	t.Parallel()
	d := openSQLite(t)
	d.db.SetMaxOpenConns(1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = outbox.Do(t.Context(), d.db, func(*sql.Tx) error {
			runtime.Goexit()
			return nil
		})
	}()
	<-done
	if _, err := d.db.ExecContext(t.Context(), "CREATE TABLE t (n)"); err != nil {
		t.Error(err)
	}
}
