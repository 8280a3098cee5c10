package outbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store/sqlite"
)

// inShop runs fn in a transaction of a database with the tables of outbox, and commits it.
func inShop(fn func(ctx context.Context, tx *sql.Tx) error) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "outbox-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	db, err := sqlite.Open(filepath.Join(dir, "shop.db"))
	if err == nil {
		err = schema.Migrate(ctx, db, schema.SQLite)
	}
	if err == nil {
		err = outbox.Do(ctx, db, func(tx *sql.Tx) error { return fn(ctx, tx) })
	}
	if err != nil {
		fmt.Println(err)
	}
	_ = db.Close()
}

var (
	shop = outbox.Address{Name: "Corner Shop", Address: "shop@example.com"}
	ann  = []outbox.Address{{Name: "Ann", Address: "ann@example.org"}}
)

// Many messages are stored with few statements.
func ExampleEnqueueMany() {
	inShop(func(ctx context.Context, tx *sql.Tx) error {
		var list []*outbox.Message
		for _, customer := range []string{"ann@example.org", "bob@example.org", "ann@example.org"} {
			list = append(list, &outbox.Message{
				From: shop, To: []outbox.Address{{Address: customer}}, Subject: "We have moved", Text: "Find us around the corner.",
				Key: "moved-" + customer, // nobody gets it twice
			})
		}
		receipts, err := outbox.EnqueueMany(ctx, tx, list)
		for _, r := range receipts {
			fmt.Println("duplicate:", r.Duplicate)
		}
		return err
	})
	// Output:
	// duplicate: false
	// duplicate: false
	// duplicate: true
}

// A reminder is stored with the appointment, and withdrawn with it.
func ExampleCancel() {
	inShop(func(ctx context.Context, tx *sql.Tx) error {
		reminder, err := outbox.Enqueue(ctx, tx, &outbox.Message{
			From: shop, To: ann, Subject: "Tomorrow at nine", Text: "See you!", NotBefore: time.Now().Add(72 * time.Hour),
		})
		if err != nil {
			return err
		}
		result, err := outbox.Cancel(ctx, tx, reminder.ID) // in the transaction that cancels the appointment
		fmt.Println("withdrawn:", result.Cancelled, "too late:", result.TooLate)
		return err
	})
	// Output:
	// withdrawn: 1 too late: 0
}

// A wrapper that hides Commit and Rollback is a transaction on the caller's word. A pool is refused.
func ExampleInTx() {
	inShop(func(ctx context.Context, tx *sql.Tx) error {
		repository := struct{ outbox.Execer }{tx} // what a layer of the application hands out
		_, err := outbox.Enqueue(ctx, outbox.InTx(repository), &outbox.Message{From: shop, To: ann, Text: "Thank you!"})
		fmt.Println("in a transaction:", err)
		_, err = outbox.Enqueue(ctx, outbox.InTx(new(sql.DB)), &outbox.Message{From: shop, To: ann, Text: "Thank you!"})
		fmt.Println("on a pool:", err)
		return nil
	})
	// Output:
	// in a transaction: <nil>
	// on a pool: enqueue: InTx was given a *sql.DB, which is no transaction: begin one with it and give that
}

// A native transaction of pgx is wrapped by FromPgx. The types are found by the compiler.
func ExampleFromPgx() {
	placeOrder := func(ctx context.Context, pool *pgxpool.Pool, number int) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "INSERT INTO orders (number) VALUES ($1)", number); err != nil {
				return err
			}
			_, err := outbox.Enqueue(ctx, outbox.FromPgx(tx), &outbox.Message{From: shop, To: ann, Text: "Thank you!"})
			return err
		})
	}
	_ = placeOrder
}

// Files come from memory, from a file system or from a reader. An image with a ContentID is shown inside the HTML.
func ExampleAttachment() {
	files := fstest.MapFS{"invoice.pdf": {Data: []byte("%PDF-1.7 …")}}
	inShop(func(ctx context.Context, tx *sql.Tx) error {
		_, err := outbox.Enqueue(ctx, tx, &outbox.Message{
			From: shop, To: ann, Subject: "Your invoice", HTML: `<img src="cid:logo"><p>Thank you!</p>`,
			Attachments: []outbox.Attachment{
				{Name: "logo.png", ContentID: "logo", Data: []byte("\x89PNG…")},
				outbox.AttachFile(files, "invoice.pdf"),
			},
		})
		fmt.Println(err)
		return err
	})
	// Output:
	// <nil>
}

// A message that must not come too early and is worth nothing too late.
func ExampleMessage_schedule() {
	inShop(func(ctx context.Context, tx *sql.Tx) error {
		opening := time.Now().Add(48 * time.Hour)
		_, err := outbox.Enqueue(ctx, tx, &outbox.Message{
			From: shop, To: ann, Subject: "We open in an hour", Text: "Come in!",
			NotBefore: opening.Add(-time.Hour), Expires: opening, Priority: outbox.Bulk,
		})
		fmt.Println(err)
		return err
	})
	// Output:
	// <nil>
}

// A message that another library wrote is sent to the bytes, with the recipients that are named beside it.
func ExampleMessage_raw() {
	inShop(func(ctx context.Context, tx *sql.Tx) error {
		_, err := outbox.Enqueue(ctx, tx, &outbox.Message{
			EnvelopeFrom: "shop@example.com", To: ann,
			Raw: []byte("From: shop@example.com\r\nTo: ann@example.org\r\nSubject: Hi\r\n\r\nHello!\r\n"),
		})
		fmt.Println(err)
		return err
	})
	// Output:
	// <nil>
}

// A newsletter that mail programs show a button for, which unsubscribes with one click (RFC 8058).
func ExampleUnsubscribe() {
	inShop(func(ctx context.Context, tx *sql.Tx) error {
		_, err := outbox.Enqueue(ctx, tx, &outbox.Message{
			From: shop, To: ann, Subject: "Tea in March", Text: "Two new teas.", Route: "newsletter", Priority: outbox.Bulk,
			Unsubscribe: outbox.Unsubscribe{URL: "https://shop.example.com/leave?token=3f1d8a6f", OneClick: true},
		})
		fmt.Println(err)
		return err
	})
	// Output:
	// <nil>
}
