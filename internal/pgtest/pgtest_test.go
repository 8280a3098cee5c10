package pgtest

import (
	"context"
	"database/sql"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(envVictim) == "1" {
		victim()
		return
	}
	goleak.VerifyTestMain(m)
}

func open(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func query[T any](t *testing.T, db *sql.DB, statement string) T {
	t.Helper()
	var v T
	if err := db.QueryRowContext(t.Context(), statement).Scan(&v); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return v
}

func exec1(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func TestDSNGivesAnEmptyDatabaseAndDropsIt(t *testing.T) {
	c := StartForTest(t, Options{})
	t.Setenv(EnvServer, c.DSN())
	admin := open(t, c.DSN())

	var name string
	t.Run("one", func(t *testing.T) {
		db := open(t, DSN(t))
		name = query[string](t, db, "SELECT current_database()")
		exec1(t, db, "CREATE TABLE things (n int)")
		if n := query[int](t, db, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"); n != 1 {
			t.Errorf("the database holds %d tables, want the one that was made", n)
		}
		other := open(t, DSN(t))
		if n := query[int](t, other, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"); n != 0 {
			t.Errorf("a second database holds %d tables, want none", n)
		}
		if got := query[string](t, other, "SHOW server_encoding"); got != "UTF8" {
			t.Errorf("encoding %s, want UTF8", got)
		}
		// The connection stays open on purpose: the drop must not depend on tests that close theirs.
		if _, err := db.Conn(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	if !strings.HasPrefix(name, "outbox_testdsngivesanempty") {
		t.Errorf("database %q does not name its test", name)
	}
	if n := query[int](t, admin, "SELECT count(*) FROM pg_database WHERE datname LIKE 'outbox%'"); n != 0 {
		t.Errorf("%d databases were left behind", n)
	}
}

// recorder stands in for the testing.TB of a test that is skipped or fails.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper()        {}
func (r *recorder) Skip(a ...any)  { r.skipped = a[0].(string); panic(r) }
func (r *recorder) Fatal(a ...any) { r.failed = a[0].(string); panic(r) }

func (r *recorder) do(f func()) {
	defer func() {
		if p := recover(); p != nil && p != any(r) {
			panic(p)
		}
	}()
	f()
}

func TestDSNWithoutAServer(t *testing.T) {
	t.Setenv(EnvServer, "")
	t.Setenv(EnvRequired, "")
	r := &recorder{TB: t}
	r.do(func() { DSN(r) })
	if !strings.Contains(r.skipped, "make test") || !strings.Contains(r.skipped, EnvServer) || r.failed != "" {
		t.Errorf("skipped with %q, failed with %q; want a skip that says how to get a server", r.skipped, r.failed)
	}

	t.Setenv(EnvRequired, "1")
	r = &recorder{TB: t}
	r.do(func() { DSN(r) })
	if r.skipped != "" || !strings.Contains(r.failed, "make test") {
		t.Errorf("skipped with %q, failed with %q; want a failure that says how to get a server", r.skipped, r.failed)
	}
}

func TestDatabaseName(t *testing.T) {
	pattern := regexp.MustCompile(`^outbox_[a-z0-9_]*_[a-z0-9]{16}$`)
	for _, test := range []string{"TestX", "", `Test/with "quotes"; DROP`, "TestÜmlaut", strings.Repeat("Long", 50)} {
		a, b := databaseName(test), databaseName(test)
		if !pattern.MatchString(a) || len(a) > 63 {
			t.Errorf("databaseName(%q) = %q", test, a)
		}
		if a == b {
			t.Errorf("databaseName(%q) gave %q twice", test, a)
		}
	}
}

func TestServerVersion(t *testing.T) {
	c := StartForTest(t, Options{})
	v, err := ServerVersion(t.Context(), c.DSN())
	if err != nil || !regexp.MustCompile(`^\d+`).MatchString(v) {
		t.Errorf("ServerVersion = %q, %v", v, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ServerVersion(ctx, c.DSN()); err == nil {
		t.Error("a cancelled question was answered")
	}
}
