package store_test

import (
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
)

// fenced finds the statements in a document.
var fenced = regexp.MustCompile("(?s)```sql\n(.*?)```")

// The recipe of docs/partitioning.md works as it stands there. What retention or an operator purges is in the history, once and
// complete. Dropping the partitions of a day removes its history. The tables of outbox do not change.
func TestPartitionedHistory(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/partitioning.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := fenced.FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 4 {
		t.Fatalf("the document has %d blocks of SQL; this test knows 4", len(blocks))
	}
	db := openPQ(t)
	s := migrated(t, db)
	for _, b := range blocks[:3] {
		db.MustExecContext(t.Context(), b[1])
	}
	chore := func() { t.Helper(); db.MustExecContext(t.Context(), blocks[3][1]) }
	count := func(from string) int {
		t.Helper()
		var n int
		if err := db.GetContext(t.Context(), &n, "SELECT count(*) FROM "+from); err != nil {
			t.Fatal(err)
		}
		return n
	}
	want := func(when string, tables map[string]int) {
		t.Helper()
		for table, n := range tables {
			if got := count(table); got != n {
				t.Errorf("%s: %d rows in %s, want %d", when, got, table, n)
			}
		}
	}

	// Before any day was prepared nothing is lost: it goes to the rest.
	sendAll(t, db, s, 3, "early")
	clean(t, db, s, 3)
	want("without a partition", map[string]int{"outbox_history.messages_rest": 3, "outbox_history.deliveries_rest": 3, "outbox_history.attempts_rest": 3})
	for _, table := range []string{"messages", "deliveries", "attempts"} {
		db.MustExecContext(t.Context(), "DELETE FROM outbox_history."+table+"_rest")
	}
	for range 2 {
		chore()
	}

	sendAll(t, db, s, 40, "key")
	held := enqueueOne(t, db, "held")
	if n, err := s.Hold(t.Context(), store.Filter{IDs: []outbox.ID{held}}); err != nil || n != 1 {
		t.Fatalf("%d held: %v", n, err)
	}
	clean(t, db, s, 40)
	want("after the retention", map[string]int{
		"outbox_messages": 1, "outbox_deliveries": 1, "outbox_attempts": 1, // the verb hold
		"outbox_history.messages": 40, "outbox_history.deliveries": 40, "outbox_history.attempts": 40, "outbox_history.messages_rest": 0,
		"outbox_history.deliveries d JOIN outbox_history.messages m ON m.id = d.message_id WHERE d.state = 'sent' AND d.attempts = 2 AND d.code = 250" +
			" AND m.subject = 'Your order' AND m.idempotency_key LIKE 'key%'": 40,
		"outbox_history.attempts WHERE reply = '451 later'": 40,
	})
	// A key is free again when its message is in the history.
	enqueueOne(t, db, "key0")
	if n, err := s.Cancel(t.Context(), store.Filter{}); err != nil || n != 2 {
		t.Fatalf("%d cancelled: %v", n, err)
	}
	if n, err := s.Purge(t.Context(), store.Filter{}); err != nil || n != 2 {
		t.Fatalf("%d purged: %v", n, err)
	}
	want("after an operator's purge", map[string]int{"outbox_messages": 0, "outbox_history.messages": 42, "outbox_history.deliveries": 42})

	var dropped int
	const forget = "SELECT outbox_history.forget((now() AT TIME ZONE 'UTC')::date + $1::integer)"
	if err := db.GetContext(t.Context(), &dropped, forget, 0); err != nil || dropped != 0 {
		t.Errorf("%d partitions dropped that are not old (%v)", dropped, err)
	}
	if err := db.GetContext(t.Context(), &dropped, forget, 1); err != nil || dropped != 3 {
		t.Errorf("%d partitions of today dropped (%v), want 3", dropped, err)
	}
	want("after the day was dropped", map[string]int{"outbox_history.messages": 0, "outbox_history.deliveries": 0, "outbox_history.attempts": 0})
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("the tables of outbox are not what they were: %v", err)
	}
	if err := schema.Migrate(t.Context(), db.DB, schema.Postgres); err != nil {
		t.Error(err)
	}
}

func enqueueOne(t *testing.T, db *sqlx.DB, key string) outbox.ID {
	t.Helper()
	tx := db.MustBeginTx(t.Context(), nil)
	defer func() { _ = tx.Rollback() }()
	receipt, err := outbox.Enqueue(t.Context(), tx, &outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}},
		Subject: "Your order", Text: "x", Key: key,
	})
	if err == nil {
		err = tx.Commit()
	}
	if err != nil || receipt.Duplicate {
		t.Fatalf("enqueue %s: %+v, %v", key, receipt, err)
	}
	return receipt.ID
}

// sendAll enqueues n messages and sends each at the second attempt.
func sendAll(t *testing.T, db *sqlx.DB, s *store.Store, n int, key string) {
	t.Helper()
	for i := range n {
		enqueueOne(t, db, key+string(rune('0'+i)))
	}
	for attempt := range 2 {
		claimed, err := s.Claim(t.Context(), queue.ClaimRequest{Owner: "d", Limit: 100, Lease: time.Minute})
		if err != nil || len(claimed) != n {
			t.Fatalf("%d claimed at attempt %d: %v", len(claimed), attempt, err)
		}
		list := make([]queue.Settlement, n)
		for i, c := range claimed {
			list[i] = queue.Settlement{Ref: c.Ref(0), Outcome: queue.Deferred, Evidence: queue.Evidence{Relay: "main", Code: 451, Reply: "451 later"}}
			if attempt == 1 {
				list[i].Outcome, list[i].Evidence = queue.Sent, queue.Evidence{Relay: "main", Code: 250, Reply: "250 ok"}
			}
		}
		if lost, err := s.Settle(t.Context(), "d", list); err != nil || len(lost) > 0 {
			t.Fatalf("%d lost: %v", len(lost), err)
		}
	}
}

// clean lets what was sent be old, and removes it.
func clean(t *testing.T, db *sqlx.DB, s *store.Store, n int) {
	t.Helper()
	db.MustExecContext(t.Context(), "UPDATE outbox_deliveries SET finished_at = finished_at - interval '3 hours' WHERE state = 'sent'")
	report, err := s.Clean(t.Context(), queue.Retention{Sent: 2 * time.Hour, Unsent: 7 * 24 * time.Hour})
	if err != nil || report.Purged != n {
		t.Fatalf("%+v cleaned away, want %d purged: %v", report, n, err)
	}
}
