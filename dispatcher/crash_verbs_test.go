package dispatcher_test

import (
	"context"
	"database/sql"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/campaign"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
)

// crashVerb is something that a process does to many deliveries while it may be killed.
type crashVerb struct {
	// ready brings the queued deliveries into the state that the verb expects.
	ready string
	// do is called by the process that is killed, and again by its successor.
	do func(ctx context.Context, db *sql.DB) error
	// before is the state of a delivery that the verb has not reached, after of one that it has reached. Empty means removed.
	before, after outbox.State
}

// withStore does something with the store of a database.
func withStore(do func(ctx context.Context, s *store.Store) error) func(context.Context, *sql.DB) error {
	return func(ctx context.Context, db *sql.DB) error {
		s, err := store.New(db, dialectOf(db))
		if err != nil {
			return err
		}
		return do(ctx, s)
	}
}

const (
	leaseAll = "INSERT INTO outbox_claims (token, owner, fenced, lease_until) SELECT id, 'dead', TRUE, '" + past + "' FROM outbox_messages; " +
		"UPDATE outbox_deliveries SET state = 'sending', attempts = 1, lease_token = message_id"
	failAll = "UPDATE outbox_deliveries SET state = 'failed', finished_at = '" + past + "'"
)

var crashVerbs = map[string]crashVerb{
	"reap": {
		ready: leaseAll, before: outbox.StateSending, after: outbox.StateQueued,
		do: withStore(func(ctx context.Context, s *store.Store) error {
			_, err := s.Reap(ctx)
			return err
		}),
	},
	"renew": {
		ready: leaseAll, before: outbox.StateSending, after: outbox.StateSending,
		do: withStore(func(ctx context.Context, s *store.Store) error {
			var tokens []string
			for d, err := range s.All(ctx, store.Filter{States: []outbox.State{outbox.StateSending}}) {
				if err != nil {
					return err
				}
				tokens = append(tokens, string(d.ID))
			}
			_, err := s.Renew(ctx, tokens, time.Hour)
			return err
		}),
	},
	"requeue": {
		ready: failAll, before: outbox.StateFailed, after: outbox.StateQueued,
		do: withStore(func(ctx context.Context, s *store.Store) error {
			_, err := s.Requeue(ctx, store.Filter{States: []outbox.State{outbox.StateFailed}})
			return err
		}),
	},
	"purge": {
		ready: failAll, before: outbox.StateFailed, after: "",
		do: withStore(func(ctx context.Context, s *store.Store) error {
			_, err := s.Purge(ctx, store.Filter{States: []outbox.State{outbox.StateFailed}})
			return err
		}),
	},
	"migrate": {
		do: func(ctx context.Context, db *sql.DB) error {
			return schema.Migrate(ctx, db, dialectOf(db))
		},
	},
}

// A process dies while it reaps, renews, requeues, purges or migrates. It leaves each delivery as before or as after. Doing it
// once more completes it.
func TestCrashDuringAVerb(t *testing.T) {
	t.Parallel()
	rounds, n := 3, 1500
	if campaign.On() {
		rounds = 30
	}
	for name, verb := range crashVerbs {
		for _, engine := range []string{"sqlite", "postgres"} {
			t.Run(name+"/"+engine, func(t *testing.T) {
				t.Parallel()
				cut := 0
				for range rounds {
					database := t.TempDir() + "/app.db"
					if engine == "postgres" {
						database = pgtest.DSN(t)
					}
					db, err := openDatabase(database)
					if err != nil {
						t.Fatal(err)
					}
					defer func() { _ = db.Close() }()
					var q *testQueue
					if name != "migrate" {
						q = newQueue(t, db)
						q.enqueue(n, nil)
						q.exec(verb.ready)
					}
					p := spawn(t, child{Database: doomed(database), Verb: name})
					timer := time.NewTimer(rand.N(60 * time.Millisecond)) // anywhere in what it does, or behind it
					<-timer.C
					p.kill()
					until(t, "the server has ended what the dead had asked of it", func() bool { return orphans(t, db) == 0 })
					if q == nil {
						if err := verb.do(t.Context(), db); err != nil {
							t.Fatal(err)
						}
						if err := schema.Check(t.Context(), db, dialectOf(db)); err != nil {
							t.Fatal(err)
						}
						newQueue(t, db).enqueue(1, nil)
						continue
					}
					left := q.inState(verb.before)
					if verb.after != verb.before {
						if done := q.inState(verb.after); verb.after != "" && left+done != n {
							t.Errorf("after the crash %d deliveries are %s and %d %s, of %d", left, verb.before, done, verb.after, n)
						}
						if left > 0 {
							cut++
						}
					}
					if err := verb.do(t.Context(), db); err != nil {
						t.Fatal(err)
					}
					want := n
					if verb.after == "" {
						want = 0
					}
					if got := q.inState(verb.after); got != want {
						t.Errorf("once more, and %d deliveries are %q, of %d", got, verb.after, n)
					}
				}
				t.Logf("%d of %d processes died before they were through", cut, rounds)
			})
		}
	}
}

// doomed names the connections of a process that will be killed.
func doomed(database string) string {
	if !strings.HasPrefix(database, "postgres://") {
		return database
	}
	u, err := url.Parse(database)
	if err != nil {
		panic(err) // the tests make it
	}
	v := u.Query()
	v.Set("application_name", "doomed")
	u.RawQuery = v.Encode()
	return u.String()
}

// orphans counts the connections to PostgreSQL that outlive such a process. A statement that was under way when its client
// died goes on to its end, and may commit.
func orphans(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	if dialectOf(db) != schema.Postgres {
		return 0
	}
	const query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'doomed'"
	if err := db.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// inState counts the deliveries in a state, or all when it is "".
func (q *testQueue) inState(state outbox.State) int {
	q.t.Helper()
	var f store.Filter
	if state != "" {
		f = storeFilter(state)
	}
	n, err := q.Count(q.t.Context(), f)
	if err != nil {
		q.t.Fatal(err)
	}
	return int(n)
}
