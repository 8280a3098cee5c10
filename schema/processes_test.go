package schema_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/schema"
)

// The environment by which a child of this test binary knows what to migrate.
const (
	envDriver = "OUTBOX_TEST_MIGRATE_DRIVER"
	envDSN    = "OUTBOX_TEST_MIGRATE_DSN"
)

func TestMain(m *testing.M) {
	if driver := os.Getenv(envDriver); driver != "" {
		if err := migrateOnSignal(driver, os.Getenv(envDSN)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// migrateOnSignal says that it is ready, and migrates when its standard input is closed.
func migrateOnSignal(driver, dsn string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	if err := db.PingContext(ctx); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(os.Stdout, "ready"); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	d := schema.Postgres
	if driver == "sqlite" {
		d = schema.SQLite
	}
	return schema.Migrate(ctx, db, d)
}

// Programs that all migrate when they start may start together: each step is made once, and none of them fails.
func TestMigrateFromManyProcessesAtOnce(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ driver, isolation string }{
		{"sqlite", ""},
		{"postgres", ""},
		{"pgx", ""},
		{"postgres", "repeatable read"},
		{"pgx", "serializable"},
	} {
		driver := test.driver
		t.Run(strings.TrimSpace(driver+" "+test.isolation), func(t *testing.T) {
			t.Parallel()
			dsn := filepath.Join(t.TempDir(), "app.db")
			if driver != "sqlite" {
				dsn = pgtest.DSN(t)
			}
			if test.isolation != "" {
				db, err := sql.Open(driver, dsn)
				if err != nil {
					t.Fatal(err)
				}
				exec(t, db, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = %L', current_database(), '`+test.isolation+`'); END $$`)
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
			}
			type child struct {
				cmd *osexec.Cmd
				in  io.WriteCloser
				err bytes.Buffer
			}
			children := make([]*child, 12)
			for i := range children {
				c := &child{cmd: osexec.CommandContext(t.Context(), os.Args[0])}
				c.cmd.Env = append(os.Environ(), envDriver+"="+driver, envDSN+"="+dsn)
				c.cmd.Stderr = &c.err
				out, err := c.cmd.StdoutPipe()
				if err == nil {
					c.in, err = c.cmd.StdinPipe()
				}
				if err = errors.Join(err, c.cmd.Start()); err != nil {
					t.Fatal(err)
				}
				if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
					t.Fatalf("process %d said %q: %v\n%s", i, line, err, c.err.String())
				}
				children[i] = c
			}
			for _, c := range children { // now
				if err := c.in.Close(); err != nil {
					t.Error(err)
				}
			}
			for i, c := range children {
				if err := c.cmd.Wait(); err != nil {
					t.Errorf("process %d: %v\n%s", i, err, c.err.String())
				}
			}
			db, err := sql.Open(driver, dsn)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			var n int
			if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM outbox_migrations").Scan(&n); err != nil || n != schema.Latest() {
				t.Fatalf("%d rows in outbox_migrations (%v), want %d", n, err, schema.Latest())
			}
		})
	}
}
