package store

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/jmoiron/sqlx"
	_ "github.com/lib/pq"
	_ "modernc.org/sqlite"

	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/schema"
)

// dialects are those of the drivers under test.
var dialects = map[string]schema.Dialect{"sqlite": schema.SQLite, "postgres": schema.Postgres, "pgx": schema.Postgres}

// Every named statement can be prepared on the engines of its dialect.
func TestEveryStatementPrepares(t *testing.T) {
	t.Parallel()
	for _, engine := range []struct {
		driver, schema string
		dsn            func(t *testing.T) string
	}{
		{"sqlite", "", func(t *testing.T) string { t.Helper(); return filepath.Join(t.TempDir(), "app.db") }},
		{"postgres", "", func(t *testing.T) string { t.Helper(); return pgtest.DSN(t) }},
		{"postgres", "mail", func(t *testing.T) string { t.Helper(); return pgtest.DSN(t) }},
		{"pgx", "", func(t *testing.T) string { t.Helper(); return pgtest.DSN(t) }},
	} {
		t.Run(engine.driver+engine.schema, func(t *testing.T) {
			t.Parallel()
			db, err := sqlx.Open(engine.driver, engine.dsn(t))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			var (
				opts []Option
				in   []schema.Option
			)
			if engine.schema != "" {
				opts, in = append(opts, Schema(engine.schema)), append(in, schema.In(engine.schema))
			}
			s, err := New(db.DB, dialects[engine.driver], opts...)
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Migrate(t.Context(), db.DB, s.dialect, in...); err != nil {
				t.Fatal(err)
			}
			for name, text := range s.queries {
				stmt, err := db.PreparexContext(t.Context(), text)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				defer func() {
					if err := stmt.Close(); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}()
			}
		})
	}
}

// The dialects have the same statements. The exceptions are those that one dialect needs because it cannot say in one statement
// what the other can.
func TestDialectsHaveTheSameStatements(t *testing.T) {
	t.Parallel()
	names := func(d schema.Dialect) []string {
		q, err := loadQueries(d)
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for name := range q {
			list = append(list, name)
		}
		slices.Sort(list)
		return list
	}
	sqlite, postgres := names(schema.SQLite), names(schema.Postgres)
	only := func(a, b []string) string {
		return strings.Join(slices.DeleteFunc(slices.Clone(a), func(name string) bool { return slices.Contains(b, name) }), " ")
	}
	if got, want := only(sqlite, postgres), "begin_claim claimed_messages end_claim forget_dispatchers lapsed lapsed_fences note_attempts suppress_bounced"; got != want {
		t.Errorf("SQLite alone has %q, want %q", got, want)
	}
	if got, want := only(postgres, sqlite), "disable_notify enable_notify lock_deliveries lock_messages no_time_limit reap_lapsed unsettled"; got != want {
		t.Errorf("PostgreSQL alone has %q, want %q", got, want)
	}
}

// No statement depends on a clause that may match under one plan and not under another. The states that it looks for are
// literals, except the finished ones, whose index is found by finished_at. The state that a statement sets does not matter to a
// plan.
func TestStatesAreLiterals(t *testing.T) {
	t.Parallel()
	for _, d := range []schema.Dialect{schema.SQLite, schema.Postgres} {
		q, err := loadQueries(d)
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range q {
			for line := range strings.Lines(text) {
				if strings.HasPrefix(line, "SET state = $") {
					continue
				}
				if !strings.Contains(line, "finished_at") && (strings.Contains(line, "state = $") || strings.Contains(line, "state IN ($")) {
					t.Errorf("%s, statement %s: a state is a parameter: %s", d, name, strings.TrimSpace(line))
				}
			}
		}
	}
}

// Drivers of SQLite differ in which argument "$2" gets, and not in "?2".
func TestSQLiteParametersAreNumbers(t *testing.T) {
	t.Parallel()
	q, err := loadQueries(schema.SQLite)
	if err != nil {
		t.Fatal(err)
	}
	for name, statement := range q {
		for line := range strings.Lines(statement) {
			if code, _, _ := strings.Cut(line, "--"); numbered.MatchString(code) {
				t.Errorf("%s: %s", name, line)
			}
		}
	}
	if !strings.Contains(q.get("body"), "substr(m.body, part.at + 1, ?2)") {
		t.Errorf("the statement is %q", q.get("body"))
	}
}
