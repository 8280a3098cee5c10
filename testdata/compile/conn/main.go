// Command conn enqueues with a connection.
package main

import (
	"context"
	"database/sql"

	"github.com/outboxmail/outbox"
)

func main() {
	var value *sql.Conn
	_, _ = outbox.Enqueue(context.Background(), value, &outbox.Message{})
}
