// Package migrations_test shows that what schema.SQL returns, and "outboxctl migrate sql" prints, is a migration for goose,
// golang-migrate, psql and sqlite3 as it is.
package migrations_test

import (
	"context"
	"database/sql"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	migratepostgres "github.com/golang-migrate/migrate/v4/database/postgres"
	migratesqlite "github.com/golang-migrate/migrate/v4/database/sqlite"
	"github.com/golang-migrate/migrate/v4/source/file"
	"github.com/pressly/goose/v3"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/examples/integrations/internal/trial"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/outboxtest"
	"github.com/outboxmail/outbox/schema"
)

// target is an empty database.
type target struct {
	name    string
	dialect schema.Dialect
	driver  string
	dsn     func(t *testing.T) string
	goose   goose.Dialect
	migrate func(db *sql.DB) (database.Driver, error)
}

var targets = []target{
	{"lib_pq", schema.Postgres, "postgres", emptyPostgres, goose.DialectPostgres, func(db *sql.DB) (database.Driver, error) {
		return migratepostgres.WithInstance(db, &migratepostgres.Config{})
	}},
	{"pgx", schema.Postgres, "pgx", emptyPostgres, goose.DialectPostgres, func(db *sql.DB) (database.Driver, error) {
		return migratepgx.WithInstance(db, &migratepgx.Config{})
	}},
	{"sqlite", schema.SQLite, "sqlite", emptySQLite, goose.DialectSQLite3, func(db *sql.DB) (database.Driver, error) {
		return migratesqlite.WithInstance(db, &migratesqlite.Config{})
	}},
}

func emptyPostgres(t *testing.T) string { t.Helper(); return pgtest.DSN(t) }

func emptySQLite(t *testing.T) string {
	t.Helper()
	return "file:" + filepath.Join(t.TempDir(), "shop.db")
}

// write puts a file into a folder of its own and returns the folder.
func write(t *testing.T, name, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// works says that the database has the schema, that schema.Migrate has nothing to do, and that a message can be enqueued.
func works(t *testing.T, db *sql.DB, d schema.Dialect) {
	t.Helper()
	ctx := t.Context()
	if err := schema.Check(ctx, db, d); err != nil {
		t.Fatal(err)
	}
	if err := schema.Migrate(ctx, db, d); err != nil {
		t.Fatal(err)
	}
	err := outbox.Do(ctx, db, func(tx *sql.Tx) error {
		_, err := outbox.Enqueue(ctx, tx, &outbox.Message{
			From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}}, Text: "hi",
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	outboxtest.RequireEnqueued(t, db, outboxtest.Match{To: "ann@example.org"})
	var deliveries int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM outbox_deliveries").Scan(&deliveries); err != nil || deliveries != 1 {
		t.Errorf("%d deliveries (%v), want 1: is the trigger there?", deliveries, err)
	}
}

func TestGoose(t *testing.T) {
	t.Parallel()
	for _, c := range targets {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := trial.Open(t, c.driver, c.dsn(t))
			dir := write(t, "00001_outbox.sql", schema.SQL(c.dialect))
			provider, err := goose.NewProvider(c.goose, db, os.DirFS(dir))
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time there is nothing to do
				if _, err := provider.Up(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			works(t, db, c.dialect)
		})
	}
}

func TestGolangMigrate(t *testing.T) {
	t.Parallel()
	for _, c := range targets {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dsn := c.dsn(t)
			source, err := new(file.File).Open("file://" + write(t, "1_outbox.up.sql", schema.SQL(c.dialect)))
			if err != nil {
				t.Fatal(err)
			}
			driver, err := c.migrate(trial.Open(t, c.driver, dsn))
			if err != nil {
				t.Fatal(err)
			}
			m, err := migrate.NewWithInstance("file", source, "database", driver)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Up(); err != nil {
				t.Fatal(err)
			}
			works(t, trial.Open(t, c.driver, dsn), c.dialect)
		})
	}
}

// run runs a program of the databases, and skips the test where it is not installed.
func run(ctx context.Context, t *testing.T, name string, args ...string) {
	t.Helper()
	program, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	if out, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func TestPsql(t *testing.T) {
	t.Parallel()
	dsn := emptyPostgres(t)
	path := filepath.Join(write(t, "outbox.sql", schema.SQL(schema.Postgres)), "outbox.sql")
	run(t.Context(), t, "psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-f", path, dsn)
	works(t, trial.Open(t, "pgx", dsn), schema.Postgres)
}

func TestSQLiteShell(t *testing.T) {
	t.Parallel()
	dir := write(t, "outbox.sql", schema.SQL(schema.SQLite))
	path := filepath.Join(dir, "shop.db")
	run(t.Context(), t, "sqlite3", "-bail", path, "BEGIN IMMEDIATE", ".read "+filepath.Join(dir, "outbox.sql"), "COMMIT")
	works(t, trial.Open(t, "sqlite", "file:"+path), schema.SQLite)
}
