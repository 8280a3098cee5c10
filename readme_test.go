package outbox_test

// The code of README.md stands here, word for word: TestReadmeCode compares them, Example runs it.

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/sqlite"
	"github.com/outboxmail/outbox/templates"
)

// open opens the database and creates the tables of outbox. It may run at every start.
func open(ctx context.Context, path string) (*sql.DB, *store.Store, error) {
	db, err := sqlite.Open(path) // or postgres.Open("postgres://…"), or a pool of your own
	if err != nil {
		return nil, nil, err
	}
	if err := schema.Migrate(ctx, db, schema.SQLite); err != nil {
		return nil, nil, err
	}
	queue, err := store.New(db, schema.SQLite)
	return db, queue, err
}

// newDispatcher delivers through one relay. Call its Run beside your HTTP server.
func newDispatcher(queue *store.Store, relayURL string) (*dispatcher.Dispatcher, error) {
	relay, err := smtpx.Open(relayURL) // smtp://user:password@smtp.example.com:587
	if err != nil {
		return nil, err
	}
	return dispatcher.New(dispatcher.Config{
		Queue:  queue,
		Relays: []dispatcher.Relay{{Name: "main", Sender: relay}},
	})
}

// placeOrder stores an order and the e-mail about it: both or neither.
func placeOrder(ctx context.Context, db *sql.DB, mail *dispatcher.Dispatcher, number int, customer string) error {
	return outbox.Do(ctx, db, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "INSERT INTO orders (number) VALUES ($1)", number); err != nil {
			return err
		}
		_, err := outbox.Enqueue(ctx, tx, &outbox.Message{
			From:    outbox.Address{Name: "Corner Shop", Address: "shop@example.com"},
			To:      []outbox.Address{{Address: customer}},
			Subject: fmt.Sprintf("Your order %d", number),
			Text:    "Thank you! It is on its way.",
			Key:     fmt.Sprintf("order-%d", number), // stored once, however often this is repeated
		})
		return err
	}, mail.Wake) // delivers at once instead of at the next poll
}

// remind stores a message from a template for later. Its id cancels it.
func remind(ctx context.Context, tx *sql.Tx, mails *templates.Set, customer string) (outbox.ID, error) {
	msg := &outbox.Message{
		From:      outbox.Address{Name: "Corner Shop", Address: "shop@example.com"},
		To:        []outbox.Address{{Address: customer}},
		NotBefore: time.Now().Add(72 * time.Hour),
	}
	reminder, err := mails.Get("reminder") // from reminder.subject, reminder.txt and reminder.html
	if err != nil {
		return "", err
	}
	if err := reminder.Fill(msg, map[string]any{"Customer": customer}); err != nil {
		return "", err
	}
	receipt, err := outbox.Enqueue(ctx, tx, msg)
	return receipt.ID, err
}

// forget withdraws a message, unless it is on its way.
func forget(ctx context.Context, tx *sql.Tx, id outbox.ID) (withdrawn bool, err error) {
	result, err := outbox.Cancel(ctx, tx, id)
	return result.Cancelled > 0, err
}
