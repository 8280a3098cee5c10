package schema_test

import (
	"database/sql"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/schema"
)

// What From leaves out is what the database has: the later steps, run by hand, bring it to where the whole text does.
func TestSQLFromAVersion(t *testing.T) {
	t.Parallel()
	const statements = gooseUp + "\nCREATE TABLE outbox_further (n integer);\n"
	for _, e := range engines() {
		if e.name == "pgx/stdlib" {
			continue // it sends one statement at a time, as no tool for loading files does
		}
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			connect := e.connect(t)
			db := connect()
			migrate(t, db, e.dialect)
			later, err := schema.SQLFurther(e.dialect, statements, schema.From(schema.Latest()))
			if err != nil {
				t.Fatal(err)
			}
			exec(t, db, later)
			requireFurther(t, db, e.dialect, statements)
			if strings.Count(later, "CREATE TABLE") != 1 || strings.Count(later, gooseUp) != 1 {
				t.Errorf("the later steps are\n%s", later)
			}

			whole, err := schema.SQLFurther(e.dialect, statements)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Count(whole, gooseUp) != 1 {
				t.Errorf("the whole text has %d marks %q, want 1", strings.Count(whole, gooseUp), gooseUp)
			}
			if first, _, _ := strings.Cut(whole, gooseUp); strings.Contains(first, ";") {
				t.Errorf("a statement stands before %q:\n%s", gooseUp, first)
			}
			fresh := e.connect(t)()
			exec(t, fresh, whole)
			requireFurther(t, fresh, e.dialect, statements)
		})
	}
}

const gooseUp = "-- +goose Up"

// requireFurther looks whether a program with the further step takes the database for its own.
func requireFurther(t *testing.T, db *sql.DB, d schema.Dialect, statements string) {
	t.Helper()
	if n := count(t, db, "outbox_further"); n != 0 {
		t.Errorf("the new table has %d rows", n)
	}
	if err := schema.MigrateFurther(t.Context(), db, d, statements); err != nil {
		t.Error(err)
	}
	if version, err := schema.Version(t.Context(), db); err != nil || version != schema.Latest()+1 {
		t.Errorf("version %d (%v), want %d", version, err, schema.Latest()+1)
	}
}

// With nothing to do, the text has no statement.
func TestSQLFromTheLatestVersion(t *testing.T) {
	t.Parallel()
	for _, d := range []schema.Dialect{schema.SQLite, schema.Postgres} {
		for line := range strings.Lines(schema.SQL(d, schema.From(schema.Latest()))) {
			if !strings.HasPrefix(line, "--") {
				t.Errorf("%s: %q is no comment", d, line)
			}
		}
	}
}

func TestFromIsRefused(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(){
		"a version that is not known": func() { schema.SQL(schema.SQLite, schema.From(schema.Latest()+1)) },
		"a version below 0":           func() { schema.SQL(schema.Postgres, schema.From(-1)) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: SQL did not panic", name)
				}
			}()
			call()
		}()
	}
	each(t, func(t *testing.T, d schema.Dialect, connect func() *sql.DB) {
		db := connect()
		from := schema.From(1)
		for name, err := range map[string]error{
			"Migrate": schema.Migrate(t.Context(), db, d, from),
			"Check":   schema.Check(t.Context(), db, d, from),
		} {
			if err == nil || !strings.Contains(err.Error(), "schema.SQL") {
				t.Errorf("%s took From: %v", name, err)
			}
		}
		if _, err := schema.Version(t.Context(), db, from); err == nil {
			t.Error("Version took From")
		}
	})
}
