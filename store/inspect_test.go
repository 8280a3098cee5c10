package store_test

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
	"github.com/outboxmail/outbox/store/sqlite"
)

// An inspection finds another file once and a missing file as long as it is missing, also over a pool that the application opened
// itself. Afterwards the store reads the file that is there.
func TestInspectAFile(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(path string) (*sql.DB, error){
		"sqlite.Open": func(path string) (*sql.DB, error) { return sqlite.Open(path) },
		"sql.Open": func(path string) (*sql.DB, error) {
			return sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)&mode=rw")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path, other := filepath.Join(dir, "app.db"), filepath.Join(dir, "other.db")
			for file, key := range map[string]string{path: "old", other: "new"} {
				db := opened(t, schema.SQLite)(sqlite.Open(file))
				migrated(t, db)
				enqueueOne(t, db, key)
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
			}
			s, err := store.New(opened(t, schema.SQLite)(open(path)).DB, schema.SQLite)
			if err != nil {
				t.Fatal(err)
			}
			inspect := func(want func(err error) bool) {
				t.Helper()
				if err := s.Inspect(t.Context()); !want(err) {
					t.Errorf("the inspection finds %v", err)
				}
			}
			well := func(err error) bool { return err == nil }
			gone := func(err error) bool {
				var moved *queue.MovedError
				return errors.As(err, &moved) && moved.Gone && !errors.Is(err, queue.ErrChanged)
			}
			inspect(well)
			inspect(well)
			if err := os.Rename(path, path+".away"); err != nil {
				t.Fatal(err)
			}
			inspect(gone)
			inspect(gone)
			if err := os.Rename(path+".away", path); err != nil {
				t.Fatal(err)
			}
			inspect(well)
			if err := os.Rename(other, path); err != nil {
				t.Fatal(err)
			}
			inspect(func(err error) bool { return errors.Is(err, queue.ErrChanged) })
			inspect(well)
			if n, err := s.Count(t.Context(), store.Filter{Key: "new"}); err != nil || n != 1 {
				t.Errorf("the store has %d messages of the new file: %v", n, err)
			}
		})
	}
}

// An inspection finds a server that only reads, and drops the sessions that lead to it.
func TestInspectAServer(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"postgres", "pgx"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			dsn := pgtest.DSN(t)
			admin := opened(t, schema.Postgres)(postgres.Open(dsn))
			set := `ALTER DATABASE "` + databaseOf(t, dsn) + `" `
			admin.MustExecContext(t.Context(), set+"SET default_transaction_read_only = on")
			s, err := store.New(openDriver(t, driver, dsn).DB, schema.Postgres)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Inspect(t.Context()); !errors.Is(err, store.ErrReadOnly) {
				t.Errorf("the inspection finds %v", err)
			}
			admin.MustExecContext(t.Context(), set+"RESET default_transaction_read_only")
			if err := s.Inspect(t.Context()); err != nil {
				t.Errorf("on a new session the inspection finds %v", err)
			}
		})
	}
}
