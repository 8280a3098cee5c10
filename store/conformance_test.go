package store_test

import (
	"database/sql"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
	"github.com/outboxmail/outbox/store/storetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, e := range engines() {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			d := schema.Postgres
			if e.name == "sqlite" {
				d = schema.SQLite
			}
			storetest.Run(t, d, func(t *testing.T) *sql.DB { t.Helper(); return e.open(t).DB })
		})
	}
}

// All rules hold for tables in a schema that the search path does not lead to, and for a role that sees nothing else. The name of
// the schema is one that must be quoted.
func TestConformanceInASchema(t *testing.T) {
	t.Parallel()
	const name = `Mail "room"; --$1`
	storetest.Run(t, schema.Postgres, func(t *testing.T) *sql.DB {
		t.Helper()
		admin := pgtest.DSN(t)
		dsn, role := pgtest.Role(t, admin)
		opened(t, schema.Postgres)(postgres.Open(admin)).MustExecContext(t.Context(), `CREATE SCHEMA "Mail ""room""; --$1" AUTHORIZATION `+role)
		return opened(t, schema.Postgres)(postgres.Open(dsn)).DB
	}, storetest.Schema(name))
}

// Two schemas of a database are two outboxes: what is enqueued in one is not claimed, listed or cleaned away in the other.
func TestSchemasAreApart(t *testing.T) {
	t.Parallel()
	db := openPQ(t)
	stores := make(map[string]*store.Store)
	ids := make(map[string]outbox.ID)
	for _, name := range []string{"", "a", "b"} {
		var err error
		if name == "" {
			stores[name] = migrated(t, db)
		} else if stores[name], err = store.New(db.DB, schema.Postgres, store.Schema(name)); err != nil {
			t.Fatal(err)
		} else if err := schema.Migrate(t.Context(), db.DB, schema.Postgres, schema.In(name)); err != nil {
			t.Fatal(err)
		}
		box, err := outbox.New(outbox.Config{Schema: name})
		if err != nil {
			t.Fatal(err)
		}
		tx := db.MustBeginTx(t.Context(), nil)
		receipt, err := box.Enqueue(t.Context(), tx, &outbox.Message{
			From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}}, Text: "x", Key: "the same",
		})
		if err != nil || receipt.Duplicate {
			t.Fatalf("the key is taken in another schema: %+v, %v", receipt, err)
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		ids[name] = receipt.ID
	}
	for name, s := range stores {
		if err := s.Check(t.Context()); err != nil {
			t.Error(err)
		}
		list, err := s.List(t.Context(), store.Filter{})
		if err != nil || len(list) != 1 || list[0].ID != ids[name] {
			t.Errorf("the schema %q lists %v (%v), want %s alone", name, list, err, ids[name])
		}
		claimed, err := s.Claim(t.Context(), queue.ClaimRequest{Owner: "d", Limit: 10, Lease: time.Minute, InlineBytes: 1 << 10})
		if err != nil || len(claimed) != 1 || claimed[0].ID != ids[name] {
			t.Errorf("in the schema %q %v were claimed (%v), want %s alone", name, claimed, err, ids[name])
		}
		if n, err := s.Purge(t.Context(), store.Filter{}); err != nil || n != 0 {
			t.Errorf("%d purged of what is being sent (%v)", n, err)
		}
	}
}

func TestSchemasThatAreRefused(t *testing.T) {
	t.Parallel()
	if _, err := store.New(openSQLite(t).DB, schema.SQLite, store.Schema("mail")); err == nil || !strings.Contains(err.Error(), "SQLite has no schemas: remove store.Schema") {
		t.Errorf("on SQLite: %v", err)
	}
	if _, err := store.New(openPQ(t).DB, schema.Postgres, store.Schema("pg_mail")); err == nil || !strings.Contains(err.Error(), "belongs to PostgreSQL") {
		t.Errorf("a name of PostgreSQL's: %v", err)
	}
}

// The suite is as large as it claims, and no rule stands twice.
func TestRulesAreNamed(t *testing.T) {
	t.Parallel()
	rules := storetest.Rules()
	if len(rules) < 80 {
		t.Errorf("the suite has %d rules, fewer than 80", len(rules))
	}
	seen := make(map[string]bool)
	for _, r := range rules {
		if seen[r[0]] || seen[r[1]] {
			t.Errorf("rule %s stands twice: %s", r[0], r[1])
		}
		seen[r[0]], seen[r[1]] = true, true
	}
	t.Logf("%d rules", len(rules))
}
