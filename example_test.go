package outbox_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/sqlite"
)

// The two functions that follow stand in README.md, word for word: TestReadmeCode compares them.

// placeOrder stores an order and the e-mail about it: both or neither.
//
//nolint:errcheck // a README shows what matters
func placeOrder(ctx context.Context, db *sql.DB, number int, customer string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after a commit
	if _, err := tx.ExecContext(ctx, "INSERT INTO orders (number) VALUES ($1)", number); err != nil {
		return err
	}
	_, err = outbox.Enqueue(ctx, tx, &outbox.Message{
		From:    outbox.Address{Name: "Corner Shop", Address: "shop@example.com"},
		To:      []outbox.Address{{Address: customer}},
		Subject: fmt.Sprintf("Your order %d", number),
		Text:    "Thank you! It is on its way.",
		Key:     fmt.Sprintf("order-%d", number), // enqueued once, however often this is retried
	})
	if err != nil {
		return err
	}
	return tx.Commit()
}

// deliver sends what was committed until ctx ends. It runs beside the HTTP server.
func deliver(ctx context.Context, db *sql.DB, relayURL string) error {
	relay, err := smtpx.Open(relayURL) // smtp://user:password@smtp.example.com:587
	if err != nil {
		return err
	}
	defer relay.Close()
	queue, err := store.New(db, schema.SQLite)
	if err != nil {
		return err
	}
	d, err := dispatcher.New(dispatcher.Config{
		Queue:  queue,
		Relays: []dispatcher.Relay{{Name: "main", Sender: relay}},
	})
	if err != nil {
		return err
	}
	return d.Run(ctx)
}

func Example() {
	if err := example(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// order 1002: refused by the database, and its mail with it
	// 1 mail arrived: Your order 1001
}

// example places an order and one that fails, and shows what arrives at a server that stands in for a relay.
func example() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	server, err := smtptest.Start(smtptest.Config{User: "user", Password: "password"})
	if err != nil {
		return err
	}
	defer server.Close()
	dir, err := os.MkdirTemp("", "outbox-example-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	db, err := sqlite.Open(filepath.Join(dir, "shop.db")) // or postgres.Open("postgres://…")
	if err != nil {
		return err
	}
	defer db.Close()
	if err := schema.Migrate(ctx, db, schema.SQLite); err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, "CREATE TABLE orders (number INTEGER PRIMARY KEY CHECK (number <> 1002))"); err != nil {
		return err
	}
	if err := placeOrder(ctx, db, 1001, "ann@example.org"); err != nil {
		return err
	}
	if err := placeOrder(ctx, db, 1002, "bob@example.org"); err == nil {
		return errors.New("the database took order 1002")
	}
	fmt.Println("order 1002: refused by the database, and its mail with it")

	done := make(chan error, 1)
	go func() { done <- deliver(ctx, db, server.URL()) }()
	if _, err := server.WaitMessages(ctx, 1); err != nil {
		return err
	}
	cancel()
	if err := <-done; err != nil {
		return err
	}
	for _, m := range server.Messages() {
		fmt.Println(server.Count(), "mail arrived:", m.Header("Subject"))
	}
	return nil
}

// TestReadmeCode shows that the code in the README is the code that is compiled and run here.
func TestReadmeCode(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(readme), "```go\n")[1:]
	if len(blocks) == 0 {
		t.Fatal("README.md has no Go code")
	}
	for _, block := range blocks {
		code, _, found := strings.Cut(block, "```\n")
		if !found || !bytes.Contains(compiled, []byte(code)) {
			t.Errorf("this code of README.md is not in example_test.go:\n%s", code)
		}
	}
}

// Wake the dispatcher that runs beside the application as soon as the order and its e-mail are committed.
func ExampleDo() {
	placeOrder := func(ctx context.Context, db *sql.DB, d *dispatcher.Dispatcher, number int) error {
		return outbox.Do(ctx, db, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, "INSERT INTO orders (number) VALUES ($1)", number); err != nil {
				return err
			}
			_, err := outbox.Enqueue(ctx, tx, &outbox.Message{
				From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}},
				Subject: fmt.Sprintf("Your order %d", number), Text: "Thank you!",
			})
			return err
		}, d.Wake)
	}
	_ = placeOrder
}
