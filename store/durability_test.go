package store_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store/postgres"
)

// A standby that never comes shows which commits of PostgreSQL wait for durability. A claim that will be fenced does not
// wait. A claim without that promise waits, and so does the fence.
func TestWhatWaitsForTheDisk(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		open func(dsn string) (*sql.DB, error)
		rate queue.Rate
	}{
		{"lib/pq", postgres.Open, queue.Rate{}},                            // one statement
		{"lib/pq with a rate", postgres.Open, queue.Rate{PerSecond: 1000}}, // a transaction
		{"pgx", func(dsn string) (*sql.DB, error) { return sql.Open("pgx", dsn) }, queue.Rate{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cluster := pgtest.StartForTest(t, pgtest.Options{Durable: true})
			whatWaits(t, opened(t, schema.Postgres)(c.open(cluster.NewDatabase(t))), c.rate)
		})
	}
}

func whatWaits(t *testing.T, db *sqlx.DB, rate queue.Rate) {
	t.Helper()
	s := migrated(t, db)
	claim := func(fenced bool) (queue.Ref, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		claimed, err := s.Claim(ctx, queue.ClaimRequest{
			Owner: "d", Limit: 1, Lease: time.Hour, Fenced: fenced, Relay: "main", Rate: rate,
		})
		if err != nil || len(claimed) != 1 {
			return queue.Ref{}, fmt.Errorf("claimed %d messages: %w", len(claimed), err)
		}
		return claimed[0].Ref(0), nil
	}
	for range 2 {
		enqueueOn(t, db)
	}

	done := make(chan error, 3)
	begin := func(fn func() error) { go func() { done <- fn() }() }
	standby(t, db, "nobody")
	for deadline := time.Now().Add(time.Minute); ; { // the server heeds a setting a moment after it is asked to
		begin(func() error {
			_, err := db.ExecContext(t.Context(), "ANALYZE outbox_deliveries")
			return err
		})
		if waits(t, db, 1, done) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no commit waits for the standby")
		}
	}

	ref, err := claim(true) // or it would wait for the standby
	if err != nil {
		t.Fatal(err)
	}
	begin(func() error {
		_, err := s.Fence(t.Context(), []queue.FencedRef{{Ref: ref, Relay: "main"}})
		return err
	})
	if !waits(t, db, 2, done) {
		t.Fatal("the fence was recorded without waiting")
	}
	begin(func() error {
		_, err := claim(false)
		return err
	})
	if !waits(t, db, 3, done) {
		t.Fatal("the claim did not wait")
	}
	standby(t, db, "")
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	var setting string
	if err := db.GetContext(t.Context(), &setting, "SHOW synchronous_commit"); err != nil || setting != "on" {
		t.Errorf("synchronous_commit is %q after the claims (%v)", setting, err)
	}
}

// waits returns true once n commits wait for the standby. It returns false if one of the started ones ended before.
func waits(t *testing.T, db *sqlx.DB, n int, done <-chan error) bool {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		var waiting int
		if err := db.GetContext(t.Context(), &waiting, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"); err != nil {
			t.Fatal(err)
		}
		if waiting >= n {
			return true
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return false
		default:
		}
	}
	t.Fatalf("%d commits do not come to wait", n)
	return false
}

// standby makes every commit wait for a standby of this name, or for none.
func standby(t *testing.T, db *sqlx.DB, name string) {
	t.Helper()
	for _, query := range []string{"ALTER SYSTEM SET synchronous_standby_names = '" + name + "'", "SELECT pg_reload_conf()"} {
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
}
