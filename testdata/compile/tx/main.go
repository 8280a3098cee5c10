// Command tx enqueues with a transaction.
package main

import (
	"context"
	"database/sql"

	"github.com/outboxmail/outbox"
)

func main() {
	var value *sql.Tx
	_, _ = outbox.Enqueue(context.Background(), value, &outbox.Message{})
}
