package store_test

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/campaign"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
)

// Again and again the server is restarted or broken off, and its backends are terminated. Meanwhile an application
// enqueues and dispatchers deliver over connection pools that nobody mends. Nothing is lost, nothing is sent twice,
// and each time the work goes on by itself.
func TestPostgresOutages(t *testing.T) {
	t.Parallel()
	rounds := 2 // of five faults
	if campaign.On() {
		rounds = 4
	}
	for name, open := range map[string]func(dsn string) (*sql.DB, error){
		"lib/pq":     postgres.Open,
		"pgx/stdlib": func(dsn string) (*sql.DB, error) { return sql.Open("pgx", dsn) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := pgtest.StartForTest(t, pgtest.Options{Durable: true})
			dsn := cluster.NewDatabase(t)
			db := opened(t, schema.Postgres)(open(dsn))
			s := migrated(t, db)
			// What terminates the backends must not be among them.
			admin := opened(t, schema.Postgres)(open(cluster.DSN()))
			l := &load{db: db, store: s, sent: make(map[outbox.ID]int), committed: make(map[outbox.ID]bool), unsure: make(map[outbox.ID]bool)}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var apps, dispatchers sync.WaitGroup
			for range 3 {
				apps.Go(func() { l.enqueue(ctx) })
			}
			for range 3 {
				dispatchers.Go(func() { l.deliver(ctx, t) })
			}
			began, faults := time.Now(), 0
			for range rounds {
				for fault, strike := range []func() error{
					func() error { return cluster.Restart(t.Context(), pgtest.Fast) },
					func() error { return terminate(t, admin) },
					func() error { return cluster.Restart(t.Context(), pgtest.Immediate) },
					func() error { return errors.Join(cluster.Down(pgtest.Fast), cluster.Up(t.Context())) },
					func() error { return terminate(t, admin) },
				} {
					l.progress(t, 30)
					if err := strike(); err != nil {
						t.Fatalf("fault %d: %v", fault, err)
					}
					faults++
				}
			}
			l.progress(t, 30)
			l.stopEnqueueing()
			apps.Wait()
			l.drained(t)
			stop()
			dispatchers.Wait()
			l.check(t)
			t.Logf("%d faults in %v", faults, time.Since(began).Round(time.Second))
		})
	}
}

// terminate ends every backend of the other databases.
func terminate(t *testing.T, admin *sqlx.DB) error {
	t.Helper()
	const query = `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname <> current_database() AND pid <> pg_backend_pid()`
	var n int
	if err := admin.GetContext(t.Context(), &n, query); err != nil {
		// The pool may still hold a connection to the server that was restarted.
		return admin.GetContext(t.Context(), &n, query)
	}
	return nil
}

// load is an application and dispatchers that go on through every error, as they do in production.
type load struct {
	db    *sqlx.DB
	store *store.Store

	mu        sync.Mutex
	committed map[outbox.ID]bool
	unsure    map[outbox.ID]bool // the commit failed: it may or may not have taken effect
	sent      map[outbox.ID]int
	failed    int // calls that returned an error
	stopped   bool
}

// pause is how long a failed caller waits.
const pause = 10 * time.Millisecond

func wait(ctx context.Context) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func (l *load) stopEnqueueing() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
}

func (l *load) note(err error) {
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.failed++
	}
}

func (l *load) enqueue(ctx context.Context) {
	for ctx.Err() == nil {
		l.mu.Lock()
		stopped := l.stopped
		l.mu.Unlock()
		if stopped {
			return
		}
		l.note(l.enqueueOne(ctx))
		wait(ctx)
	}
}

func (l *load) enqueueOne(ctx context.Context) error {
	tx, err := l.db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	receipt, err := outbox.Enqueue(ctx, tx, &outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}}, Text: "x",
	})
	if err != nil {
		return err
	}
	err = tx.Commit()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.unsure[receipt.ID] = true
	} else {
		l.committed[receipt.ID] = true
	}
	return err
}

// deliver claims, fences, sends, and settles until the settlement is recorded.
func (l *load) deliver(ctx context.Context, t *testing.T) {
	t.Helper()
	for ctx.Err() == nil {
		claimed, err := l.store.Claim(ctx, queue.ClaimRequest{Owner: "d", Limit: 10, Lease: 10 * time.Minute, Fenced: true})
		l.note(err)
		if _, err := l.store.Reap(ctx); err != nil {
			l.note(err)
		}
		var list []queue.Settlement
		for _, c := range claimed {
			lost, err := l.store.Fence(ctx, []queue.FencedRef{{Ref: c.Ref(0), Relay: "primary"}})
			l.note(err)
			if err != nil || len(lost) > 0 { // not sent
				list = append(list, queue.Settlement{Ref: c.Ref(0), Outcome: queue.Recycled})
				continue
			}
			l.mu.Lock()
			l.sent[c.ID]++
			l.mu.Unlock()
			list = append(list, queue.Settlement{Ref: c.Ref(0), Outcome: queue.Sent})
		}
		for ctx.Err() == nil {
			_, err := l.store.Settle(ctx, "d", list)
			if err == nil {
				break
			}
			l.note(err)
			wait(ctx)
		}
		wait(ctx)
	}
}

// await waits for what the load brings about by itself.
func (l *load) await(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !done() {
		if ctx.Err() != nil {
			t.Fatalf("waited in vain for %s", what)
		}
		wait(ctx)
	}
}

// progress waits until n more messages have been sent.
func (l *load) progress(t *testing.T, n int) {
	t.Helper()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.sent)
	}
	goal := count() + n
	l.await(t, "the work to go on", func() bool { return count() >= goal })
}

// drained waits until every delivery is in a terminal state. Nobody knows the claims whose answer was lost. Their leases are
// long, so that no outage outlasts one; drained lets them lapse now. That is safe for every delivery that was not
// fenced.
func (l *load) drained(t *testing.T) {
	t.Helper()
	l.await(t, "the queue to be empty", func() bool {
		_, err := l.db.ExecContext(t.Context(), "UPDATE outbox_claims SET lease_until = $1 WHERE token NOT IN (SELECT token FROM outbox_fences)",
			"2000-01-01T00:00:00.000Z")
		if err != nil {
			return false
		}
		n, err := l.store.Count(t.Context(), store.Filter{States: []outbox.State{
			outbox.StateQueued, outbox.StateSending, outbox.StateUncertain, outbox.StateHeld,
		}})
		return err == nil && n == 0
	})
}

func (l *load) check(t *testing.T) {
	t.Helper()
	stored := make(map[outbox.ID]bool)
	for d, err := range l.store.All(t.Context(), store.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		stored[d.ID] = true
		if d.State != outbox.StateSent {
			t.Errorf("%s is %s", d.ID, d.State)
		}
	}
	for id := range l.committed {
		if !stored[id] {
			t.Errorf("%s was committed and is gone", id)
		}
	}
	for id := range stored {
		if !l.committed[id] && !l.unsure[id] {
			t.Errorf("%s is stored and was never committed", id)
		}
		if l.sent[id] != 1 {
			t.Errorf("%s was sent %d times", id, l.sent[id])
		}
	}
	for _, id := range slices.Collect(maps.Keys(l.sent)) {
		if !stored[id] {
			t.Errorf("%s was sent and is not stored", id)
		}
	}
	if l.failed == 0 {
		t.Error("no call failed: the outages did not happen")
	}
	t.Logf("%d messages stored (%d of them in doubt at their commit), each sent once; %d calls failed", len(stored), len(l.unsure), l.failed)
}
