package outboxtest_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/outboxtest"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/sqlite"
)

// T stands for the *testing.T of a test.
type T struct{ cleanups []func() }

func (*T) Helper()                           {}
func (t *T) Cleanup(fn func())               { t.cleanups = append(t.cleanups, fn) }
func (*T) Context() context.Context          { return context.Background() }
func (*T) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// end does what the testing package does at the end of a test.
func (t *T) end() {
	for len(t.cleanups) > 0 {
		last := len(t.cleanups) - 1
		t.cleanups[last]()
		t.cleanups = t.cleanups[:last]
	}
}

// openForTest opens an empty database with the tables of outbox, and its queue.
func openForTest(t *T) (*sql.DB, *store.Store) {
	dir, err := os.MkdirTemp("", "outboxtest-example-")
	if err != nil {
		panic(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	db, err := sqlite.Open(filepath.Join(dir, "app.db"))
	if err != nil {
		panic(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := schema.Migrate(t.Context(), db, schema.SQLite); err != nil {
		panic(err)
	}
	queue, err := store.New(db, schema.SQLite)
	if err != nil {
		panic(err)
	}
	return db, queue
}

// book and unbook are the application under test. book enqueues a reminder for three days later, and unbook cancels it.
func book(ctx context.Context, db *sql.DB, guest string) (reminder outbox.ID, err error) {
	err = outbox.Do(ctx, db, func(tx *sql.Tx) error {
		receipt, err := outbox.Enqueue(ctx, tx, &outbox.Message{
			From:      outbox.Address{Name: "Restaurant", Address: "table@example.com"},
			To:        []outbox.Address{{Address: guest}},
			Subject:   "Your table tomorrow",
			Text:      "See you at eight. To cancel: https://example.com/cancel/7\n",
			NotBefore: time.Now().Add(72 * time.Hour),
			Tags:      []string{"reminder"},
		})
		reminder = receipt.ID
		return err
	})
	return reminder, err
}

func unbook(ctx context.Context, db *sql.DB, reminder outbox.ID) error {
	return outbox.Do(ctx, db, func(tx *sql.Tx) error {
		_, err := outbox.Cancel(ctx, tx, reminder)
		return err
	})
}

func ExampleRequireEnqueued() {
	t := new(T) // the *testing.T of the test
	defer t.end()
	db, _ := openForTest(t)
	if _, err := book(t.Context(), db, "ann@example.org"); err != nil {
		t.Fatalf("book: %v", err)
	}

	mail := outboxtest.RequireEnqueued(t, db, outboxtest.Match{To: "ann@example.org", Tag: "reminder"})
	fmt.Println(mail.Subject)
	fmt.Println(mail.Links[0])
	// Output:
	// Your table tomorrow
	// https://example.com/cancel/7
}

// A test of a cancellation asks for the state.
func ExampleRequireEnqueued_cancelled() {
	t := new(T) // the *testing.T of the test
	defer t.end()
	db, _ := openForTest(t)
	reminder, err := book(t.Context(), db, "ann@example.org")
	if err != nil {
		t.Fatalf("book: %v", err)
	}
	outboxtest.RequireEnqueued(t, db, outboxtest.Match{Tag: "reminder", State: outboxtest.Scheduled})

	if err := unbook(t.Context(), db, reminder); err != nil {
		t.Fatalf("unbook: %v", err)
	}
	mail := outboxtest.RequireEnqueued(t, db, outboxtest.Match{Tag: "reminder", State: outbox.StateCancelled})
	fmt.Println(mail.Deliveries[0].Recipient, mail.Deliveries[0].State)
	// Output: ann@example.org cancelled
}

// A reminder for later is delivered once its time has come.
func ExampleAdvance() {
	t := new(T) // the *testing.T of the test
	defer t.end()
	db, queue := openForTest(t)
	inbox := outboxtest.NewInbox(t)
	if _, err := book(t.Context(), db, "ann@example.org"); err != nil {
		t.Fatalf("book: %v", err)
	}

	outboxtest.Advance(t, db, 71*time.Hour)
	outboxtest.Deliver(t, queue, inbox)
	fmt.Println("after 71 hours:", len(inbox.Mail()))
	outboxtest.Advance(t, db, time.Hour)
	outboxtest.Deliver(t, queue, inbox)
	fmt.Println("after 72 hours:", inbox.Require(outboxtest.Match{To: "ann@example.org"}).Subject)
	// Output:
	// after 71 hours: 0
	// after 72 hours: Your table tomorrow
}

// A refusal puts the message off. Some time later it is delivered.
func ExampleRelay() {
	t := new(T) // the *testing.T of the test
	defer t.end()
	db, queue := openForTest(t)
	relay := new(outboxtest.Relay)
	relay.Fail(1, outboxtest.ErrBusy)
	if _, err := book(t.Context(), db, "bob@example.org"); err != nil {
		t.Fatalf("book: %v", err)
	}

	outboxtest.Advance(t, db, 72*time.Hour)
	outboxtest.Deliver(t, queue, relay)
	mail := outboxtest.RequireEnqueued(t, db, outboxtest.Match{State: outboxtest.Deferred})
	fmt.Println(mail.Deliveries[0].Code, mail.Deliveries[0].Reply)
	outboxtest.Advance(t, db, 24*time.Hour)
	outboxtest.Deliver(t, queue, relay)
	fmt.Println("accepted:", len(relay.Accepted()), "after", relay.Attempts(), "attempts")
	// Output:
	// 451 try again later
	// accepted: 1 after 2 attempts
}
