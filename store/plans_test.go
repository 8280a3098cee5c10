package store

import (
	"fmt"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox"
)

// These tests load a database in which few of the rows are due, and look at what the statements of a dispatcher read. The sizes
// are those of an outbox that keeps a history and has a large campaign scheduled.
const (
	scheduled = 200_000
	sent      = 200_000
	due       = 1000
)

// The parts of a load, which tell their ids apart.
const (
	partSent = iota
	partScheduled
	partDue
)

// load fills the tables with n messages of a part by plain SQL; rows is "FROM generate_series(1, n) AS g (n)" in the dialect.
func load(t *testing.T, db *sqlx.DB, part, n int, rows func(n int) string, id, blob string) {
	t.Helper()
	exec := func(query string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	notBefore := [...]string{"'2026-01-01T00:00:00.000Z'", "'2090-01-01T00:00:00.000Z'", "NULL"}[part]
	exec(fmt.Sprintf(`INSERT INTO outbox_messages (id, message_id, sender, recipients, size, not_before, body)
SELECT %s, '<m@example.com>', 'shop@example.com', '["ann@example.org"]', 2048, %s, CAST('x' AS %s) %s`,
		fmt.Sprintf(id, part), notBefore, blob, rows(n)))
	if part == partSent {
		exec(`UPDATE outbox_deliveries SET state = 'sent', finished_at = '2026-01-01T00:00:00.000Z', relay = 'primary', code = 250`)
	}
}

// testID is an id as load makes it.
func testID(part, n int) outbox.ID {
	return outbox.ID(fmt.Sprintf("0189000%d-0000-7000-8000-%012x", part, n))
}
