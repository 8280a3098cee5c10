package schema_test

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/schema"
)

// odd is a name that must be quoted everywhere, and that is no part of a statement, a comment or a placeholder.
const odd = `My "mail"; --$1%s`

// quotedOdd is odd as it stands in SQL.
const quotedOdd = `"My ""mail""; --$1%s"`

func openPostgres(t *testing.T, driver, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func count(t *testing.T, db *sql.DB, from string) int {
	t.Helper()
	var n int
	if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM "+from).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// The tables can stand in a schema of the user's choice, which no search path leads to; each schema of a database is an outbox
// of its own, migrated by itself, and the triggers work for whoever inserts.
func TestTablesInASchema(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"postgres", "pgx"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			dsn := pgtest.DSN(t)
			db := openPostgres(t, driver, dsn)
			var behind *schema.VersionError
			err := schema.Check(t.Context(), db, schema.Postgres, schema.In("mail"))
			if !errors.As(err, &behind) || behind.Schema != "mail" || !strings.Contains(err.Error(), "outboxctl migrate up --schema 'mail'") {
				t.Fatalf("Check of a schema that does not exist: %v", err)
			}
			for i, name := range []string{"mail", odd} {
				for range 2 {
					if err := schema.Migrate(t.Context(), db, schema.Postgres, schema.In(name)); err != nil {
						t.Fatal(err)
					}
				}
				if err := schema.Check(t.Context(), db, schema.Postgres, schema.In(name)); err != nil {
					t.Fatal(err)
				}
				if v, err := schema.Version(t.Context(), db, schema.In(name)); err != nil || v != schema.Latest() {
					t.Fatalf("version %d in the schema %s (%v)", v, name, err)
				}
				if v := version(t, db); v != 0 {
					t.Fatalf("version %d where the search path leads", v)
				}
				if n := count(t, db, "pg_class WHERE relname LIKE 'outbox%' AND relnamespace = 'public'::regnamespace"); n != 0 {
					t.Fatalf("%d relations in the schema public", n)
				}
				if i == 0 {
					continue
				}
				// The later one must not touch the earlier.
				exec(t, db, strings.Replace(insert, "outbox_messages", quotedOdd+".outbox_messages", 1),
					first, "<m@example.com>", nil, `["a@example.com","b@example.com"]`, nil, []byte("abc"))
				if n, other := count(t, db, quotedOdd+".outbox_deliveries"), count(t, db, "mail.outbox_deliveries"); n != 2 || other != 0 {
					t.Fatalf("%d deliveries in the schema, %d in the other; want 2 and 0", n, other)
				}
				exec(t, db, "DELETE FROM "+quotedOdd+".outbox_messages")
				if n := count(t, db, quotedOdd+".outbox_deliveries"); n != 0 {
					t.Fatalf("%d deliveries outlived their message", n)
				}
			}
			further := "ALTER TABLE outbox_messages ADD COLUMN further text;\n"
			if err := schema.MigrateFurther(t.Context(), db, schema.Postgres, further, schema.In(odd)); err != nil {
				t.Fatal(err)
			}
			for name, want := range map[string]int{"mail": schema.Latest(), odd: schema.Latest() + 1} {
				if v, err := schema.Version(t.Context(), db, schema.In(name)); err != nil || v != want {
					t.Errorf("version %d in the schema %s (%v), want %d", v, name, err, want)
				}
			}
		})
	}
}

// A schema that was made for a role is enough: it needs no right to make schemas.
func TestMigrateIntoASchemaThatIsThere(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	admin := openPostgres(t, "postgres", dsn)
	roleDSN, role := pgtest.Role(t, dsn)
	db := openPostgres(t, "postgres", roleDSN)
	if err := schema.Migrate(t.Context(), db, schema.Postgres, schema.In("mail")); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Fatalf("a role without rights makes a schema: %v", err)
	}
	exec(t, admin, "CREATE SCHEMA mail AUTHORIZATION "+role)
	if err := schema.Migrate(t.Context(), db, schema.Postgres, schema.In("mail")); err != nil {
		t.Fatal(err)
	}
}

// What SQL prints for a schema is complete in itself.
func TestSQLInASchemaLoadsByHand(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"mail", odd} {
		db := openPostgres(t, "postgres", pgtest.DSN(t))
		exec(t, db, schema.SQL(schema.Postgres, schema.In(name)))
		if err := schema.Check(t.Context(), db, schema.Postgres, schema.In(name)); err != nil {
			t.Error(err)
		}
		if err := schema.Migrate(t.Context(), db, schema.Postgres, schema.In(name)); err != nil {
			t.Error(err)
		}
	}
}

// Where the search path says where the tables are, it says so to the one who migrates: a path that leads elsewhere for
// another role, as the default "$user", public does, does not lead the triggers astray.
func TestTriggersFindTheirTablesWhoeverInserts(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	admin := openPostgres(t, "postgres", dsn)
	ownerDSN, owner := pgtest.Role(t, dsn)
	appDSN, app := pgtest.Role(t, dsn)
	exec(t, admin, fmt.Sprintf("CREATE SCHEMA %s AUTHORIZATION %[1]s", owner)) // "$user" leads here
	db := openPostgres(t, "postgres", ownerDSN)
	migrate(t, db, schema.Postgres)
	if n := count(t, admin, owner+".outbox_migrations"); n != schema.Latest() {
		t.Fatalf("%d steps in the schema of the owner", n)
	}
	exec(t, db, fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s", owner, app))
	exec(t, db, fmt.Sprintf("GRANT ALL ON ALL TABLES IN SCHEMA %s TO %s", owner, app))
	exec(t, openPostgres(t, "postgres", appDSN), strings.Replace(insert, "outbox_messages", owner+".outbox_messages", 1),
		first, "<m@example.com>", nil, `["a@example.com"]`, nil, []byte("abc"))
	if n := count(t, admin, owner+".outbox_deliveries"); n != 1 {
		t.Errorf("%d deliveries, want 1", n)
	}
	// A schema that comes to stand before the one with the tables does not hide them from the next step.
	exec(t, admin, "CREATE SCHEMA before AUTHORIZATION "+owner)
	exec(t, admin, fmt.Sprintf(`ALTER ROLE %s SET search_path = before, "$user"`, owner))
	db = openPostgres(t, "postgres", ownerDSN)
	if err := schema.MigrateFurther(t.Context(), db, schema.Postgres, "ALTER TABLE outbox_messages ADD COLUMN further text;\n"); err != nil {
		t.Fatal(err)
	}
	if n := count(t, admin, owner+".outbox_migrations"); n != schema.Latest()+1 {
		t.Errorf("%d steps in the schema of the owner, want one more", n)
	}
}

func TestSchemasThatAreRefused(t *testing.T) {
	t.Parallel()
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "app.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for _, test := range []struct {
		d    schema.Dialect
		opt  schema.Option
		says string
	}{
		{schema.SQLite, schema.In("mail"), "SQLite has no schemas: remove schema.In"},
		{schema.Postgres, schema.In(""), "must not be empty"},
		{schema.Postgres, schema.In("pg_mail"), "belongs to PostgreSQL"},
		{schema.Postgres, schema.ApplicationID(7), "remove schema.ApplicationID"},
	} {
		if err := schema.Migrate(t.Context(), db, test.d, test.opt); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("Migrate: %v, want %q", err, test.says)
		}
		if err := schema.Check(t.Context(), db, test.d, test.opt); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("Check: %v, want %q", err, test.says)
		}
		func() {
			defer func() {
				if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), test.says) {
					t.Errorf("SQL: %v, want %q", r, test.says)
				}
			}()
			schema.SQL(test.d, test.opt)
		}()
	}
	if _, err := schema.Version(t.Context(), db, schema.In("a\nb")); err == nil || !strings.Contains(err.Error(), "one line") {
		t.Errorf("Version: %v", err)
	}
}
