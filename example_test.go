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
	"testing/fstest"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/smtpx/smtptest"
	"github.com/outboxmail/outbox/templates"
)

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

	db, queue, err := open(ctx, filepath.Join(dir, "shop.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "CREATE TABLE orders (number INTEGER PRIMARY KEY CHECK (number <> 1002))"); err != nil {
		return err
	}
	mail, err := newDispatcher(queue, server.URL())
	if err != nil {
		return err
	}
	if err := placeOrder(ctx, db, mail, 1001, "ann@example.org"); err != nil {
		return err
	}
	if err := placeOrder(ctx, db, mail, 1002, "bob@example.org"); err == nil {
		return errors.New("the database took order 1002")
	}
	fmt.Println("order 1002: refused by the database, and its mail with it")

	done := make(chan error, 1)
	go func() { done <- mail.Run(ctx) }()
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
	compiled, err := os.ReadFile("readme_test.go")
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
			t.Errorf("this code of README.md is not in readme_test.go:\n%s", code)
		}
	}
}

// A reminder is stored for later and withdrawn before its time has come.
func Example_reminder() {
	if err := reminder(context.Background()); err != nil {
		log.Fatal(err)
	}
	// Output:
	// withdrawn: true
}

func reminder(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "outbox-example-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	db, _, err := open(ctx, filepath.Join(dir, "shop.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	mails, err := templates.Load(fstest.MapFS{
		"reminder.subject": {Data: []byte("Your basket")},
		"reminder.txt":     {Data: []byte("{{.Customer}}, your tea waits.")},
	}, templates.Config{})
	if err != nil {
		return err
	}
	return outbox.Do(ctx, db, func(tx *sql.Tx) error {
		id, err := remind(ctx, tx, mails, "ann@example.org")
		if err != nil {
			return err
		}
		withdrawn, err := forget(ctx, tx, id)
		fmt.Println("withdrawn:", withdrawn)
		return err
	})
}
