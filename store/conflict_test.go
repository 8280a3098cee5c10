package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
)

// An outcome is recorded despite the defaults of a role or a database: neither a time limit nor a strict isolation prevents it.
func TestSettleWhateverTheDefaultsOfTheDatabase(t *testing.T) {
	t.Parallel()
	for name, setting := range map[string]string{
		"statement timeout": "statement_timeout = '150ms'",
		"lock timeout":      "lock_timeout = '100ms'",
		"serializable":      "default_transaction_isolation = 'serializable'",
		"repeatable read":   "default_transaction_isolation = 'repeatable read'",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := pgtest.DSN(t)
			plain := opened(t, schema.Postgres)(postgres.Open(dsn))
			migrated(t, plain)
			var database string
			if err := plain.GetContext(t.Context(), &database, "SELECT current_database()"); err != nil {
				t.Fatal(err)
			}
			plain.MustExecContext(t.Context(), fmt.Sprintf("ALTER DATABASE %q SET %s", database, setting))
			// The connections that are opened now have the setting.
			strict := opened(t, schema.Postgres)(postgres.Open(dsn))
			s, err := store.New(strict.DB, schema.Postgres)
			if err != nil {
				t.Fatal(err)
			}
			enqueueOn(t, strict)
			claimed, err := s.Claim(t.Context(), queue.ClaimRequest{Owner: "d1", Limit: 1, Lease: time.Minute})
			if err != nil || len(claimed) != 1 {
				t.Fatalf("%d messages claimed (%v)", len(claimed), err)
			}
			// Another transaction holds the table for longer than the limits and changes the row. The settlement cannot be serialised
			// then. It passes over a row that is locked by itself.
			tx, err := plain.BeginTxx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback() }()
			if _, err := tx.ExecContext(t.Context(), "LOCK TABLE outbox_deliveries IN SHARE ROW EXCLUSIVE MODE; "+
				"UPDATE outbox_deliveries SET enhanced = 'x'"); err != nil {
				t.Fatal(err)
			}
			settled := make(chan error, 1)
			go func() {
				lost, err := s.Settle(t.Context(), "d1", []queue.Settlement{{Ref: claimed[0].Ref(0), Outcome: queue.Sent}})
				if len(lost) > 0 {
					err = fmt.Errorf("lost %v", lost)
				}
				settled <- err
			}()
			waiting(t, plain)
			if name == "statement timeout" || name == "lock timeout" {
				// The limit strikes while the row is held; the repetition waits without one.
				again(t, plain)
			}
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			if err := <-settled; err != nil {
				t.Errorf("settle: %v", err)
			}
		})
	}
}

func enqueueOn(t *testing.T, db *sqlx.DB) {
	t.Helper()
	tx, err := db.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := outbox.Enqueue(t.Context(), tx, &outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}}, Text: "x",
	}); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

// waiting waits until a statement waits for a lock.
func waiting(t *testing.T, db *sqlx.DB) {
	t.Helper()
	until(t, db, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%d.lease_token%'`)
}

// again waits until the statement waits in a transaction of its own, the second time.
func again(t *testing.T, db *sqlx.DB) {
	t.Helper()
	until(t, db, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
AND query LIKE '%d.lease_token%' AND xact_start < query_start`)
}

func until(t *testing.T, db *sqlx.DB, query string) {
	t.Helper()
	l := load{db: db}
	l.await(t, query, func() bool {
		var n int
		if err := db.GetContext(t.Context(), &n, query); err != nil {
			t.Fatal(err)
		}
		return n > 0
	})
}
