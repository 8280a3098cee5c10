package schema_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
	"github.com/outboxmail/outbox/store/sqlite"
)

// A further step is applied to a database full of messages, by several processes at once, while applications enqueue and
// dispatchers of the older program deliver. Nobody's call fails, nothing is lost, and the older program goes on, but refuses to
// be started anew.
func TestUpgradeUnderLoad(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) (*sql.DB, error){
		"sqlite": func(t *testing.T) (*sql.DB, error) {
			t.Helper()
			return sqlite.Open(filepath.Join(t.TempDir(), "app.db"), sqlite.RelaxedSync())
		},
		"lib/pq":     func(t *testing.T) (*sql.DB, error) { t.Helper(); return postgres.Open(pgtest.DSN(t)) },
		"pgx/stdlib": func(t *testing.T) (*sql.DB, error) { t.Helper(); return sql.Open("pgx", pgtest.DSN(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, err := open(t)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			d := schema.Postgres
			if name == "sqlite" {
				d = schema.SQLite
			}
			s, err := store.New(db, d)
			if err != nil {
				t.Fatal(err)
			}
			migrate(t, db, d)
			enqueue := func(ctx context.Context, n int) error {
				list := make([]*outbox.Message, n)
				for i := range list {
					list[i] = &outbox.Message{
						From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}}, Text: "x",
					}
				}
				tx, err := db.BeginTx(ctx, nil)
				if err != nil {
					return err
				}
				defer func() { _ = tx.Rollback() }()
				if _, err := outbox.EnqueueMany(ctx, tx, list); err != nil {
					return err
				}
				return tx.Commit()
			}
			const full = 2000
			if err := enqueue(t.Context(), full); err != nil {
				t.Fatal(err)
			}

			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var (
				wg       sync.WaitGroup
				enqueued = full
				sent     [2]int
				begun    = make(chan struct{}, 3)
			)
			wg.Go(func() {
				for first := true; ctx.Err() == nil; first = false {
					if err := enqueue(context.WithoutCancel(ctx), 1); err != nil {
						t.Errorf("enqueue: %v", err)
						return
					}
					enqueued++
					if first {
						begun <- struct{}{}
					}
				}
			})
			for i := range sent {
				wg.Go(func() {
					for first := true; ctx.Err() == nil; first = false {
						n, err := deliver(context.WithoutCancel(ctx), s, 20)
						if err != nil {
							t.Errorf("deliver: %v", err)
							return
						}
						sent[i] += n
						if first {
							begun <- struct{}{}
						}
					}
				})
			}
			for range cap(begun) {
				<-begun
			}
			further := "ALTER TABLE outbox_messages ADD COLUMN further text;\nCREATE INDEX outbox_deliveries_further ON outbox_deliveries (recipient);\n" +
				"ALTER TABLE outbox_deliveries ADD COLUMN further integer NOT NULL DEFAULT 0;\n"
			var migrations sync.WaitGroup
			for range 4 {
				migrations.Go(func() {
					if err := schema.MigrateFurther(t.Context(), db, d, further); err != nil {
						t.Errorf("migrate: %v", err)
					}
				})
			}
			migrations.Wait()
			// The older program goes on for a while.
			if err := enqueue(t.Context(), 10); err != nil {
				t.Errorf("enqueue after the migration: %v", err)
			}
			afterwards, err := deliver(t.Context(), s, 20)
			if err != nil {
				t.Errorf("deliver after the migration: %v", err)
			}
			stop()
			wg.Wait()
			enqueued += 10
			sent[0] += afterwards
			for {
				n, err := deliver(t.Context(), s, 1000)
				if err != nil {
					t.Fatal(err)
				}
				if n == 0 {
					break
				}
				sent[0] += n
			}
			if got := sent[0] + sent[1]; got != enqueued {
				t.Errorf("%d messages were enqueued and %d sent", enqueued, got)
			}
			var newer *schema.VersionError
			if err := s.Check(t.Context()); !errors.As(err, &newer) || newer.Have != schema.Latest()+1 {
				t.Errorf("the older program says of the newer database: %v", err)
			}
			if v := version(t, db); v != schema.Latest()+1 {
				t.Errorf("the database is at version %d", v)
			}
			var rows int
			if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM outbox_deliveries WHERE further = 0").Scan(&rows); err != nil || rows != enqueued {
				t.Errorf("%d rows have the new column (%v), want %d", rows, err, enqueued)
			}
		})
	}
}

// deliver claims and settles, and returns how many it did.
func deliver(ctx context.Context, s *store.Store, limit int) (int, error) {
	claimed, err := s.Claim(ctx, queue.ClaimRequest{Owner: "d", Limit: limit, Lease: time.Minute})
	if err != nil {
		return 0, fmt.Errorf("claim: %w", err)
	}
	list := make([]queue.Settlement, len(claimed))
	for i, c := range claimed {
		list[i] = queue.Settlement{Ref: c.Ref(0), Outcome: queue.Sent}
	}
	lost, err := s.Settle(ctx, "d", list)
	if err == nil && len(lost) > 0 {
		err = fmt.Errorf("%d leases were lost", len(lost))
	}
	return len(claimed), err
}
