package outboxtest_test

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/outboxtest"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store"
)

const day = 24 * time.Hour

// A reminder in 72 hours arrives after 72 hours and not before.
func TestAdvanceMakesAReminderDue(t *testing.T) {
	onBoth(t, func(t *testing.T, db database, q *store.Store) {
		inbox := outboxtest.NewInbox(t)
		enqueue(t, db, reminder(72*time.Hour))
		outboxtest.Deliver(t, q, inbox)
		outboxtest.Advance(t, db, 72*time.Hour-time.Minute)
		outboxtest.Deliver(t, q, inbox)
		outboxtest.RequireEnqueued(t, db, outboxtest.Match{State: outboxtest.Scheduled})
		if got := inbox.Mail(); len(got) != 0 {
			t.Errorf("a minute too early %v arrived", got)
		}

		outboxtest.Advance(t, db, time.Minute)
		outboxtest.RequireNotEnqueued(t, db, outboxtest.Match{State: outboxtest.Scheduled})
		if report := outboxtest.Deliver(t, q, inbox); report.Sent != 1 {
			t.Errorf("after 72 hours: %+v", report)
		}
		inbox.Require(outboxtest.Match{Subject: "Your appointment"})
		outboxtest.RequireEnqueued(t, db, outboxtest.Match{State: outbox.StateSent})
	})
}

// What was due in exactly d is due after it, although NotBefore is rounded up when it is stored.
func TestAdvanceIsExactlyEnough(t *testing.T) {
	onBoth(t, func(t *testing.T, db database, _ *store.Store) {
		for _, d := range []time.Duration{time.Nanosecond, 999 * time.Nanosecond, time.Microsecond, time.Second + time.Nanosecond, 90*day + time.Microsecond} {
			msg, now := reminder(0), time.Now()
			msg.NotBefore = now.Add(d)
			id := enqueue(t, db, msg)
			outboxtest.Advance(t, db, d)
			m := outboxtest.RequireEnqueued(t, db, outboxtest.Match{Where: func(m *outboxtest.Mail) bool { return m.ID == id }})
			if due := m.Deliveries[0].Due; due.After(now) {
				t.Errorf("%v later the message is due at %v, want %v or before", d, due, now)
			}
		}
	})
}

func TestAdvanceExpires(t *testing.T) {
	onBoth(t, func(t *testing.T, db database, q *store.Store) {
		relay := new(outboxtest.Relay)
		relay.Fail(-1, outboxtest.ErrUnreachable)
		msg := reminder(0)
		msg.Expires = time.Now().Add(10 * time.Minute)
		enqueue(t, db, msg)
		held := enqueue(t, db, msg)
		if _, err := q.Hold(t.Context(), store.Filter{IDs: []outbox.ID{held}}); err != nil {
			t.Fatal(err)
		}
		outboxtest.Deliver(t, q, relay)
		outboxtest.Advance(t, db, 9*time.Minute)
		outboxtest.Deliver(t, q, relay)
		outboxtest.RequireNotEnqueued(t, db, outboxtest.Match{State: outbox.StateExpired})

		outboxtest.Advance(t, db, time.Minute)
		relay.Reset()
		outboxtest.Deliver(t, q, relay)
		if n := len(outboxtest.Search(t, db, outboxtest.Match{State: outbox.StateExpired})); n != 2 || len(relay.Accepted()) != 0 {
			t.Errorf("%d messages expired, want 2; %d were sent", n, len(relay.Accepted()))
		}
	})
}

// A refused message is tried again after the backoff, and given up once it is old.
func TestAdvanceThroughBackoff(t *testing.T) {
	onBoth(t, func(t *testing.T, db database, q *store.Store) {
		relay := new(outboxtest.Relay)
		relay.Fail(-1, outboxtest.ErrBusy)
		enqueue(t, db, reminder(0))
		outboxtest.Deliver(t, q, relay)
		for attempts := 1; ; attempts++ {
			outboxtest.Deliver(t, q, relay)
			if relay.Attempts() != attempts {
				t.Fatalf("%d attempts, want %d: it was tried again before its time", relay.Attempts(), attempts)
			}
			m := outboxtest.Enqueued(t, db)[0]
			if m.Deliveries[0].Shown() != outboxtest.Deferred {
				if attempts < 3 || m.Deliveries[0].State != outbox.StateFailed {
					t.Errorf("after %d attempts: %+v", attempts, m.Deliveries[0])
				}
				break
			}
			if attempts > 200 {
				t.Fatal("the message is not given up")
			}
			outboxtest.Advance(t, db, time.Until(m.Deliveries[0].Due))
			outboxtest.Deliver(t, q, relay)
		}
	})
}

// An outage ends a message by its own age, counted from its start.
func TestAdvanceThroughAnOutage(t *testing.T) {
	onBoth(t, func(t *testing.T, db database, q *store.Store) {
		relay := new(outboxtest.Relay)
		relay.Fail(-1, outboxtest.ErrUnreachable)
		enqueue(t, db, reminder(0))
		outboxtest.Deliver(t, q, relay)
		outboxtest.Advance(t, db, 4*day)
		outboxtest.Deliver(t, q, relay)
		outboxtest.RequireEnqueued(t, db, outboxtest.Match{State: outboxtest.Deferred})
		outboxtest.Advance(t, db, day+time.Hour)
		outboxtest.Deliver(t, q, relay)
		outboxtest.RequireEnqueued(t, db, outboxtest.Match{State: outbox.StateFailed})
	})
}

// A lost reply is sent again after its delay where the message says so.
func TestAdvanceResolvesDoubt(t *testing.T) {
	onBoth(t, func(t *testing.T, db database, q *store.Store) {
		relay := new(outboxtest.Relay)
		relay.LoseReplies(1)
		enqueue(t, db, reminder(0))
		outboxtest.Deliver(t, q, relay)
		outboxtest.RequireEnqueued(t, db, outboxtest.Match{State: outbox.StateUncertain})
		outboxtest.Advance(t, db, day)
		outboxtest.Deliver(t, q, relay)
		outboxtest.RequireEnqueued(t, db, outboxtest.Match{State: outbox.StateSent})
		if n := len(relay.Accepted()); n != 2 {
			t.Errorf("the relay got %d copies, want 2", n)
		}
	})
}

func TestAdvanceEndsPausesOfRelays(t *testing.T) {
	onBoth(t, func(t *testing.T, db database, q *store.Store) {
		relay := new(outboxtest.Relay)
		if err := q.PauseRelay(t.Context(), "outboxtest", time.Hour, "quota"); err != nil {
			t.Fatal(err)
		}
		enqueue(t, db, reminder(0))
		outboxtest.Deliver(t, q, relay)
		outboxtest.RequireNotEnqueued(t, db, outboxtest.Match{State: outbox.StateSent})
		outboxtest.Advance(t, db, time.Hour)
		outboxtest.Deliver(t, q, relay)
		outboxtest.RequireEnqueued(t, db, outboxtest.Match{State: outbox.StateSent})
	})
}

// Retention removes what has grown old, also what the janitor had passed before the time moved.
func TestAdvanceAgesForRetention(t *testing.T) {
	onBoth(t, func(t *testing.T, db database, q *store.Store) {
		keep := queue.Retention{Sent: 30 * day, Unsent: 90 * day, Body: 7 * day}
		relay := new(outboxtest.Relay)
		enqueue(t, db, reminder(0))
		outboxtest.Deliver(t, q, relay)
		clean := func() queue.CleanReport {
			t.Helper()
			report, err := q.Clean(t.Context(), keep)
			if err != nil {
				t.Fatal(err)
			}
			return report
		}
		if got := clean(); got != (queue.CleanReport{}) {
			t.Errorf("at once: %+v", got)
		}
		outboxtest.Advance(t, db, 7*day)
		if got := clean(); got.Scrubbed != 1 || got.Purged != 0 {
			t.Errorf("after a week: %+v", got)
		}
		outboxtest.Advance(t, db, 23*day)
		if got := clean(); got.Purged != 1 || len(outboxtest.Enqueued(t, db)) != 0 {
			t.Errorf("after a month: %+v", got)
		}
	})
}

// The janitor remembers how far it came. That moves, too: otherwise it would not see what grew old behind it.
func TestAdvanceMovesTheJanitor(t *testing.T) {
	onBoth(t, func(t *testing.T, db database, q *store.Store) {
		for _, d := range []time.Duration{time.Hour, day} {
			enqueue(t, db, reminder(0))
			outboxtest.Deliver(t, q, new(outboxtest.Relay))
			outboxtest.Advance(t, db, d)
			if report, err := q.Clean(t.Context(), queue.Retention{Body: time.Hour}); err != nil || report.Scrubbed != 1 {
				t.Errorf("%+v, %v; want one message scrubbed", report, err)
			}
		}
	})
}

// A lease goes on: what a dispatcher holds is not taken from it.
func TestAdvanceLeavesLeasesAlone(t *testing.T) {
	onBoth(t, func(t *testing.T, db database, q *store.Store) {
		enqueue(t, db, reminder(0))
		claimed, err := q.Claim(t.Context(), queue.ClaimRequest{Owner: "me", Limit: 1, Lease: time.Minute})
		if err != nil || len(claimed) != 1 {
			t.Fatalf("claim: %v, %v", claimed, err)
		}
		outboxtest.Advance(t, db, day)
		if report, err := q.Reap(t.Context()); err != nil || report != (queue.ReapReport{}) {
			t.Errorf("reap: %+v, %v", report, err)
		}
		if lost, err := q.Settle(t.Context(), "me", []queue.Settlement{{Ref: claimed[0].Ref(0), Outcome: queue.Sent}}); err != nil || len(lost) != 0 {
			t.Errorf("settle: %v, %v", lost, err)
		}
		outboxtest.RequireEnqueued(t, db, outboxtest.Match{State: outbox.StateSent})
	})
}

// Time passes inside a transaction, and is rolled back with it.
func TestAdvanceInATransaction(t *testing.T) {
	onBoth(t, func(t *testing.T, db database, _ *store.Store) {
		enqueue(t, db, reminder(time.Hour))
		scheduled := outboxtest.Match{State: outboxtest.Scheduled}
		tx, err := db.(*sql.DB).BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback() }()
		outboxtest.Advance(t, tx, time.Hour)
		outboxtest.RequireNotEnqueued(t, tx, scheduled)
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
		outboxtest.RequireEnqueued(t, db, scheduled)
	})
}

// A dispatcher of the application's own finds what has become due.
func TestAdvanceBesideARunningDispatcher(t *testing.T) {
	onBoth(t, func(t *testing.T, db database, q *store.Store) {
		inbox := outboxtest.NewInbox(t)
		d, err := dispatcher.New(dispatcher.Config{Queue: q, Relays: []dispatcher.Relay{{Name: "main", Sender: inbox}}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		enqueue(t, db, reminder(72*time.Hour))
		outboxtest.Advance(t, db, 72*time.Hour)
		d.Wake()
		inbox.Wait(ctx, outboxtest.Match{Subject: "Your appointment"})
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAdvanceFailures(t *testing.T) {
	app, _ := open(t)
	fails(t, func(t outboxtest.TB) { outboxtest.Advance(t, app.db, -1) }, "advance by -1ns: time does not go back")
	empty, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = empty.Close() }()
	fails(t, func(t outboxtest.TB) { outboxtest.Advance(t, empty, day) }, "advance by 24h0m0s", "outbox_clock")
	if err := app.db.Close(); err != nil {
		t.Fatal(err)
	}
	fails(t, func(t outboxtest.TB) { outboxtest.Advance(t, app.db, day) }, "closed")
}

// The columns that hold times, found by their type, and on SQLite by their name.
const (
	timesOnPostgres = `SELECT table_name || '.' || column_name FROM information_schema.columns
		WHERE table_name LIKE 'outbox%' AND table_name <> 'outbox_clock' AND data_type LIKE 'timestamp%'`
	timesOnSQLite = `SELECT m.name || '.' || c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c
		WHERE m.type = 'table' AND m.name LIKE 'outbox%' AND (c.name IN ('at', 'not_before')
		  OR c.name LIKE '%\_at' ESCAPE '\' OR c.name LIKE '%\_until' ESCAPE '\' OR c.name LIKE '%\_since' ESCAPE '\')`
)

// Every time in the schema either moves or stays for a reason.
func TestAdvanceKnowsEveryTime(t *testing.T) {
	stays := map[string]string{
		"outbox_claims.lease_until":     "a lease goes on",
		"outbox_fences.fenced_at":       "only the order of fences matters",
		"outbox_dispatchers.started_at": "a dispatcher that runs goes on",
		"outbox_dispatchers.seen_at":    "a dispatcher that runs goes on",
		"outbox_migrations.applied_at":  "nothing depends on it",
	}
	onBoth(t, func(t *testing.T, db database, _ *store.Store) {
		query := timesOnSQLite
		if strings.HasSuffix(t.Name(), "/postgres") {
			query = timesOnPostgres
		}
		rows, err := db.QueryContext(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		moved, found := outboxtest.Moved(), []string{}
		for rows.Next() {
			var column string
			if err := rows.Scan(&column); err != nil {
				t.Fatal(err)
			}
			found = append(found, column)
			if stays[column] == "" && !slices.Contains(moved, column) {
				t.Errorf("Advance does not move %s: add it to agings, or here with the reason", column)
			}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		for _, column := range moved {
			if !slices.Contains(found, column) {
				t.Errorf("Advance moves %s, which is no column with a time", column)
			}
		}
	})
}
