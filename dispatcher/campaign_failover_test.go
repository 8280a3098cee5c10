package dispatcher_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/internal/campaign"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
	"github.com/outboxmail/outbox/store/sqlite"
)

// failover is a primary, a standby that confirms every commit, and a name that leads to one of them.
type failover struct {
	*killing
	cable            *cable
	primary, standby *pgtest.Cluster
	dispatchers      []*dispatcher.Dispatcher
}

// The primary fails over to its standby while an application enqueues and two dispatchers deliver, one over lib/pq and one over
// pgx/stdlib. The name moves to the new primary. The sessions that lead to the old one survive, and only read. Health says so. Everything
// goes on by itself, nothing is lost, and nothing goes twice without a doubt.
func TestThePrimaryFailsOver(t *testing.T) {
	t.Parallel()
	f := newFailover(t)
	app := employ(t, orders{Name: "app-0", Database: f.database, Pace: 20 * time.Millisecond})
	rounds, strikes := 1, []func(){f.readsOnly}
	if campaign.On() {
		rounds, strikes = 7, []func(){f.readsOnly, f.crashes, f.restartsAsAStandby}
	}
	var longest time.Duration
	failovers := 0
	for range rounds {
		for _, strike := range strikes {
			if f.standby == nil {
				f.follow()
			}
			f.progress()
			strike()
			longest = max(longest, f.progress())
			failovers++
		}
	}
	f.retire(app)
	f.drain()
	f.audit(fmt.Sprintf("the primary failed over %d times, and 20 more messages had arrived after %v at the latest", failovers,
		longest.Round(time.Millisecond)))
}

func newFailover(t *testing.T) *failover {
	t.Helper()
	f := &failover{primary: pgtest.StartForTest(t, pgtest.Options{Settings: map[string]string{"synchronous_commit": "on"}})}
	c, through := newCable(t, f.primary.DSN())
	f.cable, f.killing = c, newKillingOn(t, through)
	f.follow()
	pgx, err := sql.Open("pgx", through)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pgx.Close() })
	other, err := store.New(pgx, schema.Postgres)
	if err != nil {
		t.Fatal(err)
	}
	for name, q := range map[string]dispatcher.Queue{"pq": f.testQueue, "pgx": other} {
		client, err := smtpx.Open(f.relay.URL(), func(c *smtpx.Config) { c.EHLO = name + ".example.com" })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		d := newDispatcher(t, dispatcher.Config{Queue: q, Name: name, Lease: campaignLease, Poll: 50 * time.Millisecond}, client)
		f.dispatchers = append(f.dispatchers, d)
		start(t, d)
	}
	return f
}

// follow starts a standby of the primary. From now on no commit is confirmed before the standby has it.
func (f *failover) follow() {
	f.t.Helper()
	f.standby = f.primary.StandbyForTest(f.t)
	f.on(f.primary, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
}

// on runs statements as the administrator of a server.
func (f *failover) on(c *pgtest.Cluster, statements ...string) {
	f.t.Helper()
	db, err := postgres.Open(c.DSN())
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for _, statement := range statements {
		if _, err := db.ExecContext(f.t.Context(), statement); err != nil {
			f.t.Fatalf("%s: %v", statement, err)
		}
	}
}

// caughtUp waits until the standby has everything that the primary has committed.
func (f *failover) caughtUp() {
	f.t.Helper()
	db, err := postgres.Open(f.primary.DSN())
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	f.await("the standby has caught up", func() (bool, error) {
		var is bool
		err := db.QueryRowContext(f.t.Context(), `SELECT pg_current_wal_lsn() = (SELECT replay_lsn FROM pg_stat_replication LIMIT 1)
AND NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep')`).Scan(&is)
		return is, err
	})
}

// promote makes the standby the primary and moves the name to it.
func (f *failover) promote() {
	f.t.Helper()
	if err := f.standby.Promote(); err != nil {
		f.t.Fatal(err)
	}
	f.cable.move(f.standby.Address())
	f.primary, f.standby = f.standby, nil
}

// told waits until both dispatchers say that the server only reads.
func (f *failover) told() {
	f.t.Helper()
	for _, d := range f.dispatchers {
		f.await("Health says that the server only reads", func() (bool, error) {
			h := d.Health()
			return strings.Contains(strings.Join(h.Reasons, "; "), store.ErrReadOnly.Error()), nil
		})
	}
}

// readsOnly tells the primary to write no more. No session is closed.
func (f *failover) readsOnly() {
	f.t.Helper()
	f.on(f.primary, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
	f.told()
	f.caughtUp()
	f.promote()
}

// crashes kills the primary.
func (f *failover) crashes() {
	f.t.Helper()
	if err := f.primary.Down(pgtest.Immediate); err != nil {
		f.t.Fatal(err)
	}
	f.promote()
}

// restartsAsAStandby makes the old primary come back at once as a server that only reads, and for a while the name leads to it.
func (f *failover) restartsAsAStandby() {
	f.t.Helper()
	if err := errors.Join(f.primary.Down(pgtest.Fast), f.primary.Demote(), f.primary.Up(f.t.Context())); err != nil {
		f.t.Fatal(err)
	}
	f.told()
	f.promote()
}

// An SQLite file is replaced by a copy of it, and removed and put back, while a dispatcher has it open. Health says so, the log and the
// Observer once. The work goes on by itself in the file that is there, and nothing is sent twice.
func TestTheFileIsReplaced(t *testing.T) {
	t.Parallel()
	k := newKilling(t, "sqlite")
	var (
		log    logBook
		mu     sync.Mutex
		events []string
	)
	d := newDispatcher(t, dispatcher.Config{
		Queue: k.testQueue, Lease: campaignLease, Poll: 50 * time.Millisecond, Logger: log.logger(), Watch: sqlite.Watch(k.db),
		Observer: dispatcher.Observer{Queue: func(_ context.Context, call string, err error) {
			if call == "inspect" && err != nil {
				mu.Lock()
				defer mu.Unlock()
				events = append(events, err.Error())
			}
		}},
	}, openRelay(t, k.relay))
	defer start(t, d)()
	says := func(text string) {
		t.Helper()
		k.await("Health says "+text, func() (bool, error) {
			return strings.Contains(strings.Join(d.Health().Reasons, "; "), text), nil
		})
	}
	finished := store.Filter{States: []outbox.State{outbox.StateQueued, outbox.StateSending, outbox.StateUncertain}}
	rounds := 1
	if campaign.On() {
		rounds = 50
	}
	for i := range rounds {
		before := k.relay.Count()
		k.place(20)
		k.progressFrom(before, 20)
		k.awaitNone("everything is recorded", finished)
		copied := fmt.Sprintf("%s.copy-%d", k.database, i)
		k.exec("VACUUM INTO '" + copied + "'")
		if err := os.Rename(copied, k.database); err != nil {
			t.Fatal(err)
		}
		// Health tells of the change before for an hour. Until this one is noticed, an application may still write to the old file.
		k.await("the change is noticed", func() (bool, error) {
			mu.Lock()
			defer mu.Unlock()
			return len(events) == 2*i+1, nil
		})
		says("was replaced while it was open")
		before = k.relay.Count()
		k.place(20)
		k.progressFrom(before, 20)
		k.awaitNone("everything is recorded", finished)

		if err := os.Rename(k.database, k.database+".away"); err != nil {
			t.Fatal(err)
		}
		says("the database cannot be used: the SQLite file " + k.database + " is gone")
		if d.Health().Ready {
			t.Error("the dispatcher is ready without a database")
		}
		if err := k.tryPlace(); err == nil {
			t.Error("an application enqueues without a database")
		}
		if err := os.Rename(k.database+".away", k.database); err != nil {
			t.Fatal(err)
		}
		k.await("the dispatcher is ready again", func() (bool, error) { return d.Health().Ready, nil })
	}
	k.drain()
	k.audit(fmt.Sprintf("the file was replaced %d times, and removed and put back %[1]d times", rounds))
	mu.Lock()
	defer mu.Unlock()
	if len(events) != 2*rounds {
		t.Errorf("%d events, want %d: %q", len(events), 2*rounds, events)
	}
	for _, text := range []string{"the database is another one than before", "the database cannot be used"} {
		if n := strings.Count(log.String(), text+`"`) + strings.Count(log.String(), text+";"); n != rounds {
			t.Errorf("the log says %d times that %s: %s", n, text, &log)
		}
	}
}
