// Command db enqueues with a connection pool.
package main

import (
	"context"
	"database/sql"

	"github.com/outboxmail/outbox"
)

func main() {
	var value *sql.DB
	_, _ = outbox.Enqueue(context.Background(), value, &outbox.Message{})
}
