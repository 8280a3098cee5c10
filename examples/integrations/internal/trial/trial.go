package trial

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/outboxtest"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
)

// Orders places an order, and one that the database refuses after its e-mail was enqueued. Then it looks into the tables
// and delivers.
func Orders(t *testing.T, db *sql.DB, d schema.Dialect, place func(ctx context.Context, customer string) error) {
	t.Helper()
	ctx := t.Context()
	if err := place(ctx, "ann@example.org"); err != nil {
		t.Fatalf("the first order: %v", err)
	}
	if err := place(ctx, "bob@example.org"); err == nil {
		t.Fatal("the second teapot was sold, and there is only one")
	} else if _, invalid := errors.AsType[*outbox.InvalidError](err); invalid {
		t.Fatalf("the second order failed for another reason than the stock: %v", err)
	}
	for query, want := range map[string]int{
		"SELECT count(*) FROM orders":                                                           1,
		"SELECT count(*) FROM outbox_messages":                                                  1,
		"SELECT count(*) FROM outbox_deliveries":                                                1,
		"SELECT count(*) FROM outbox_deliveries WHERE state = 'queued'":                         1,
		"SELECT count(*) FROM outbox_deliveries WHERE recipient LIKE 'ann@%'":                   1,
		"SELECT amount FROM stock":                                                              0,
		"SELECT count(*) FROM outbox_messages WHERE idempotency_key = 'teapot-ann@example.org'": 1,
	} {
		if got := count(ctx, t, db, query); got != want {
			t.Errorf("%s = %d, want %d", query, got, want)
		}
	}
	queue, err := store.New(db, d)
	if err != nil {
		t.Fatal(err)
	}
	inbox := outboxtest.NewInbox(t)
	outboxtest.Deliver(t, queue, inbox)
	inbox.Require(outboxtest.Match{To: "ann@example.org", Subject: "Your teapot"})
	if n := len(inbox.Mail()); n != 1 {
		t.Errorf("%d mails arrived, want 1", n)
	}
	if n := count(ctx, t, db, "SELECT count(*) FROM outbox_deliveries WHERE state = 'sent'"); n != 1 {
		t.Errorf("%d deliveries are sent, want 1", n)
	}
}

// errUndo ends a transaction that must not be committed.
var errUndo = errors.New("undo")

// Verbs tries what outbox does in a transaction of a library. inTx runs fn in one, commits it when fn returns nil, and
// rolls it back otherwise.
func Verbs(t *testing.T, db *sql.DB, inTx func(ctx context.Context, fn func(tx outbox.Tx) error) error) {
	t.Helper()
	ctx := t.Context()
	mail := func(to, key string) *outbox.Message {
		return &outbox.Message{
			From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: to}},
			Subject: "It's $1, ? and :name", Text: "100 % \\ 'quoted'", Key: key,
			Tags: []string{"a?b", "$2"}, Metadata: map[string]string{"order": "7"},
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	before := count(ctx, t, db, "SELECT count(*) FROM outbox_messages")
	stored := func(want int, when string) {
		t.Helper()
		if got := count(ctx, t, db, "SELECT count(*) FROM outbox_messages") - before; got != want {
			t.Errorf("%s: %d messages, want %d", when, got, want)
		}
	}

	var first outbox.Receipt
	must(inTx(ctx, func(tx outbox.Tx) (err error) {
		// A message that is no message leaves the transaction as it was.
		if _, err := outbox.Enqueue(ctx, tx, mail("nobody", "")); err == nil {
			t.Error("an address without a domain was accepted")
		}
		first, err = outbox.Enqueue(ctx, tx, mail("ann@example.org", "k1"))
		return err
	}))
	stored(1, "after a commit")

	must(inTx(ctx, func(tx outbox.Tx) error {
		again, err := outbox.Enqueue(ctx, tx, mail("ann@example.org", "k1"))
		if err == nil && (!again.Duplicate || again.ID != first.ID) {
			t.Errorf("the key was used before: got %+v, want a duplicate of %s", again, first.ID)
		}
		return err
	}))
	stored(1, "after a duplicate")

	err := inTx(ctx, func(tx outbox.Tx) error {
		if _, err := outbox.Enqueue(ctx, tx, mail("bob@example.org", "")); err != nil {
			return err
		}
		return errUndo
	})
	if !errors.Is(err, errUndo) {
		t.Fatalf("got %v, want the error of the function", err)
	}
	stored(1, "after a rollback")

	must(inTx(ctx, func(tx outbox.Tx) error {
		many := make([]*outbox.Message, 40)
		for i := range many {
			many[i] = mail("eve@example.org", "")
		}
		receipts, err := outbox.EnqueueMany(ctx, tx, many)
		if err == nil && len(receipts) != len(many) {
			t.Errorf("%d receipts for %d messages", len(receipts), len(many))
		}
		return err
	}))
	stored(41, "after many")

	must(inTx(ctx, func(tx outbox.Tx) error {
		got, err := outbox.Cancel(ctx, tx, first.ID)
		if err == nil && (!got.Found || got.Cancelled != 1 || got.TooLate != 0 || got.States[outbox.StateCancelled] != 1) {
			t.Errorf("Cancel = %+v, want one recipient that gets no mail", got)
		}
		return err
	}))
	if n := count(ctx, t, db, "SELECT count(*) FROM outbox_deliveries WHERE state = 'cancelled'"); n != 1 {
		t.Errorf("%d deliveries are cancelled, want 1", n)
	}
	subject := ""
	must(db.QueryRowContext(ctx, "SELECT subject FROM outbox_messages WHERE id = $1", first.ID.String()).Scan(&subject))
	if want := mail("", "").Subject; subject != want {
		t.Errorf("the subject is stored as %q, want %q", subject, want)
	}

	// The key of a message that was cancelled is free again.
	must(inTx(ctx, func(tx outbox.Tx) error {
		second, err := outbox.Enqueue(ctx, tx, mail("ann@example.org", "k1"))
		if err == nil && (second.Duplicate || second.ID == first.ID) {
			t.Errorf("the key belongs to a cancelled message: got %+v, want a new message", second)
		}
		return err
	}))
	stored(42, "after the key was used again")
}
