package store_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store/sqlite"
)

// SQLite has one writer at a time. Cleaning removes many rows without holding up the other writers. The test runs apart from its
// neighbours: beside them a commit can take longer than the rest between two batches.
func TestCleaningGivesWay(t *testing.T) {
	name := filepath.Join(t.TempDir(), "app.db")
	db := opened(t, schema.SQLite)(sqlite.Open(name))
	s := migrated(t, db)
	const batches = 15
	tx := db.MustBeginTx(t.Context(), nil)
	for range batches * 100 {
		if _, err := outbox.Enqueue(t.Context(), tx, &outbox.Message{
			From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}}, Text: "x",
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	db.MustExecContext(t.Context(), "UPDATE outbox_deliveries SET state = 'sent', finished_at = '2000-01-01T00:00:00.000Z'")
	other := opened(t, schema.SQLite)(sqlite.Open(name))

	done := make(chan error, 1)
	go func() {
		_, err := s.Clean(t.Context(), queue.Retention{Sent: time.Hour})
		done <- err
	}()
	var longest time.Duration
	for commits := 0; ; commits++ {
		began := time.Now()
		enqueueOn(t, other)
		longest = max(longest, time.Since(began))
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d messages were enqueued meanwhile, the slowest took %v", commits, longest)
			if commits < 2*batches { // without a rest each has one
				t.Errorf("%d messages were enqueued while %d batches were removed", commits, batches)
			}
			return
		default:
		}
	}
}
