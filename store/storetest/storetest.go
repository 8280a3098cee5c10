// Package storetest is the conformance suite of package store. Its named rules state what every database behind a
// [store.Store] must do. It checks each rule on a real database. A check that fails prints the violated rule.
//
// The project runs it for modernc.org/sqlite, lib/pq and pgx/stdlib. Run it for another driver, for another version
// of a database, or for a database that is compatible with PostgreSQL:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, schema.Postgres, func(t *testing.T) *sql.DB {
//			return openEmptyDatabase(t)
//		})
//	}
package storetest

import (
	"database/sql"
	"slices"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox/schema"
)

// rule is one thing that a store promises.
type rule struct {
	name string
	says string
	// check reports every way in which the promise is broken.
	check func(w *world)
}

// topic is a group of rules that share a database.
type topic struct {
	name  string
	rules []rule
}

// topics lists all topics.
func topics() []topic {
	return []topic{
		{"enqueue", enqueueRules()},
		{"claim", claimRules()},
		{"poison", poisonRules()},
		{"share", shareRules()},
		{"due", dueRules()},
		{"fence", fenceRules()},
		{"renew", renewRules()},
		{"claims", slices.Concat(claimsRules(), meetingRules(), lockedRules())},
		{"settle", settleRules()},
		{"stale", staleRules()},
		{"evidence", evidenceRules()},
		{"reap", reapRules()},
		{"lapses", lapsesRules()},
		{"doubt", doubtRules()},
		{"read", readRules()},
		{"filter", filterRules()},
		{"find", findRules()},
		{"operate", operateRules()},
		{"bulk", bulkRules()},
		{"purge", purgeRules()},
		{"stats", statsRules()},
		{"overview", overviewRules()},
		{"suppress", suppressRules()},
		{"feedback", feedbackRules()},
		{"rate", rateRules()},
		{"relays", relayRules()},
		{"clean", cleanRules()},
		{"heartbeat", beatRules()},
		{"guards", guardRules()},
	}
}

// Option changes how [Run] runs.
type Option func(*world)

// Schema keeps the tables in a schema of PostgreSQL, as [store.Schema] does. Defaults to the search path.
func Schema(name string) Option { return func(w *world) { w.schema = name } }

// Run checks every rule on databases of a dialect. It calls open once for each topic, several times at once. open
// returns an empty database that nobody else uses. It closes and removes the database when its test ends. Run creates
// the tables.
func Run(t *testing.T, d schema.Dialect, open func(t *testing.T) *sql.DB, opts ...Option) {
	t.Helper()
	newWorld := func(t *testing.T, says string, db *sql.DB) *world {
		t.Helper()
		w := &world{T: t, says: says, dialect: d, db: sqlx.NewDb(db, string(d))}
		for _, opt := range opts {
			opt(w)
		}
		return w
	}
	for _, topic := range topics() {
		t.Run(topic.name, func(t *testing.T) {
			t.Parallel()
			db := open(t)
			newWorld(t, "The tables can be made.", db).migrate()
			for i, r := range topic.rules {
				t.Run(r.name, func(t *testing.T) {
					w := newWorld(t, r.says, db)
					if i > 0 {
						w.reset()
					}
					w.store = w.newStore()
					r.check(w)
				})
			}
		})
	}
	t.Run("unmigrated", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, "A database without the tables is named as such by every method, with what to run.", open(t))
		w.store = w.newStore()
		checkUnmigrated(w)
	})
}

// Rules returns the name and the sentence of every rule, for documentation.
func Rules() [][2]string {
	var list [][2]string
	for _, topic := range topics() {
		for _, r := range topic.rules {
			list = append(list, [2]string{topic.name + "/" + r.name, r.says})
		}
	}
	return slices.Clip(list)
}
