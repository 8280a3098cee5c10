package schema_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"
	_ "modernc.org/sqlite"

	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/schema"
)

// engine is a way to an empty database; connect may be called more than once for the same one.
type engine struct {
	name    string
	dialect schema.Dialect
	connect func(t *testing.T) func() *sql.DB
}

func engines() []engine {
	open := func(t *testing.T, driver, dsn string) *sql.DB {
		t.Helper()
		db, err := sql.Open(driver, dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	postgres := func(driver string) func(t *testing.T) func() *sql.DB {
		return func(t *testing.T) func() *sql.DB {
			dsn := pgtest.DSN(t)
			return func() *sql.DB { return open(t, driver, dsn) }
		}
	}
	return []engine{
		{"sqlite", schema.SQLite, func(t *testing.T) func() *sql.DB {
			path := filepath.Join(t.TempDir(), "app.db")
			// No busy_timeout: Migrate must cope with the connections that it is given.
			exec(t, open(t, "sqlite", path), "PRAGMA journal_mode = WAL")
			return func() *sql.DB { return open(t, "sqlite", path) }
		}},
		{"lib/pq", schema.Postgres, postgres("postgres")},
		{"pgx/stdlib", schema.Postgres, postgres("pgx")},
	}
}

// each runs a test on every engine, with an empty database.
func each(t *testing.T, test func(t *testing.T, d schema.Dialect, connect func() *sql.DB)) {
	t.Helper()
	for _, e := range engines() {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			test(t, e.dialect, e.connect(t))
		})
	}
}

func exec(t *testing.T, db *sql.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func version(t *testing.T, db *sql.DB) int {
	t.Helper()
	v, err := schema.Version(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func migrate(t *testing.T, db *sql.DB, d schema.Dialect) {
	t.Helper()
	if err := schema.Migrate(t.Context(), db, d); err != nil {
		t.Fatal(err)
	}
}

func TestMigrateBringsAnEmptyDatabaseToLatest(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d schema.Dialect, connect func() *sql.DB) {
		db := connect()
		if v := version(t, db); v != 0 {
			t.Fatalf("an empty database says version %d", v)
		}
		var behind *schema.VersionError
		if err := schema.Check(t.Context(), db, d); !errors.As(err, &behind) || !strings.Contains(err.Error(), "outboxctl migrate up") {
			t.Fatalf("Check of an empty database: %v", err)
		}
		migrate(t, db, d)
		if v := version(t, db); v != schema.Latest() {
			t.Fatalf("version %d after Migrate, want %d", v, schema.Latest())
		}
		if err := schema.Check(t.Context(), db, d); err != nil {
			t.Fatal(err)
		}
		migrate(t, db, d)
		for table := range strings.FieldsSeq("messages deliveries attempts routes relays dispatchers chores suppressions actions migrations") {
			exec(t, db, "SELECT count(*) FROM outbox_"+table)
		}
	})
}

func TestMigrateOverManyConnectionsAtOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d schema.Dialect, connect func() *sql.DB) {
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			db := connect()
			wg.Go(func() { errs[i] = schema.Migrate(t.Context(), db, d) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := connect().QueryRowContext(t.Context(), "SELECT count(*) FROM outbox_migrations").Scan(&n); err != nil || n != schema.Latest() {
			t.Fatalf("%d rows in outbox_migrations (%v), want %d", n, err, schema.Latest())
		}
	})
}

func TestMigrateRefusesEditedNewerAndUnknown(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d schema.Dialect, connect func() *sql.DB) {
		db := connect()
		migrate(t, db, d)
		var genuine string
		if err := db.QueryRowContext(t.Context(), "SELECT checksum FROM outbox_migrations WHERE version = 1").Scan(&genuine); err != nil {
			t.Fatal(err)
		}

		exec(t, db, "UPDATE outbox_migrations SET checksum = 'edited' WHERE version = 1")
		for name, err := range map[string]error{"Migrate": schema.Migrate(t.Context(), db, d), "Check": schema.Check(t.Context(), db, d)} {
			var edited *schema.ChecksumError
			if !errors.As(err, &edited) || edited.Version != 1 || !strings.Contains(err.Error(), "outboxctl migrate sql") {
				t.Errorf("%s of an edited migration: %v", name, err)
			}
		}
		exec(t, db, "UPDATE outbox_migrations SET checksum = $1 WHERE version = 1", genuine)

		exec(t, db, fmt.Sprintf("INSERT INTO outbox_migrations (version, checksum, applied_at) VALUES (%d, 'x', 'x')", schema.Latest()+1))
		for name, err := range map[string]error{"Migrate": schema.Migrate(t.Context(), db, d), "Check": schema.Check(t.Context(), db, d)} {
			var newer *schema.VersionError
			if !errors.As(err, &newer) || newer.Have != schema.Latest()+1 || !strings.Contains(err.Error(), "newer version of the program") {
				t.Errorf("%s of a newer database: %v", name, err)
			}
		}

		exec(t, db, "DELETE FROM outbox_migrations WHERE version = 1")
		if err := schema.Migrate(t.Context(), db, d); err == nil || !strings.Contains(err.Error(), "lacks step 1") {
			t.Errorf("Migrate with a missing row: %v", err)
		}
	})
	if err := schema.Migrate(t.Context(), nil, "oracle"); err == nil || !strings.Contains(err.Error(), `unknown dialect "oracle"`) {
		t.Errorf("unknown dialect: %v", err)
	}
}

// A step that fails leaves nothing behind: here a table stands in the way of a later statement.
func TestMigrateIsAllOrNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d schema.Dialect, connect func() *sql.DB) {
		db := connect()
		exec(t, db, "CREATE TABLE outbox_actions (mine integer)")
		if err := schema.Migrate(t.Context(), db, d); err == nil || !strings.Contains(err.Error(), "outbox_actions") {
			t.Fatalf("Migrate over a foreign table: %v", err)
		}
		if v := version(t, db); v != 0 {
			t.Fatalf("version %d after a failed migration", v)
		}
		if _, err := db.ExecContext(t.Context(), "SELECT 1 FROM outbox_messages"); err == nil {
			t.Fatal("a failed migration left outbox_messages behind")
		}
		exec(t, db, "DROP TABLE outbox_actions")
		migrate(t, db, d)
	})
}

func TestMigrateStopsWithItsContext(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d schema.Dialect, connect func() *sql.DB) {
		db := connect()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := schema.Migrate(ctx, db, d); !errors.Is(err, context.Canceled) {
			t.Fatalf("Migrate with a cancelled context: %v", err)
		}
		migrate(t, db, d)
	})
}

// What SQL prints builds the same schema when it is loaded by hand, and Migrate knows it afterwards. pgx is left out: it
// sends one statement at a time, as no tool for loading files does.
func TestSQLLoadsByHand(t *testing.T) {
	t.Parallel()
	for _, e := range engines() {
		if e.name == "pgx/stdlib" {
			continue
		}
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			db := e.connect(t)()
			exec(t, db, schema.SQL(e.dialect))
			if err := schema.Check(t.Context(), db, e.dialect); err != nil {
				t.Fatal(err)
			}
			migrate(t, db, e.dialect)
		})
	}
}

// The same number of steps on both dialects, and Latest says it.
func TestDialectsHaveTheSameSteps(t *testing.T) {
	t.Parallel()
	for _, d := range []schema.Dialect{schema.SQLite, schema.Postgres} {
		steps, err := schema.Migrations(d)
		if err != nil {
			t.Fatal(err)
		}
		if len(steps) != schema.Latest() {
			t.Errorf("%s has %d steps, Latest says %d", d, len(steps), schema.Latest())
		}
	}
}

const (
	first  = "01890000-0000-7000-8000-000000000001"
	insert = `INSERT INTO outbox_messages (id, message_id, idempotency_key, sender, recipients, size, not_before, body)
VALUES ($1, $2, $3, 'shop@example.com', $4, 3, $5, $6) ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING`
)

// Plain SQL is enough to enqueue, from any language: the trigger makes the deliveries.
func TestInsertBecomesOneDeliveryPerRecipient(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d schema.Dialect, connect func() *sql.DB) {
		db := connect()
		migrate(t, db, d)
		exec(t, db, insert, first, "<"+first+"@example.com>", "order-1", `["a@example.com","b@example.com"]`,
			"2030-01-02T03:04:05.678Z", []byte("abc"))
		exec(t, db, insert, "01890000-0000-7000-8000-000000000002", "<x@example.com>", "order-1", `["c@example.com"]`, nil, []byte("abc"))

		rows, err := db.QueryContext(t.Context(),
			`SELECT seq, recipient, state, due_at > '2030-01-02T03:04:05.677Z' FROM outbox_deliveries ORDER BY seq`)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = rows.Close() }()
		var got []string
		for rows.Next() {
			var (
				seq              int
				recipient, state string
				later            bool
			)
			if err := rows.Scan(&seq, &recipient, &state, &later); err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprintf("%d %s %s %v", seq, recipient, state, later))
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		if want := []string{"1 a@example.com queued true", "2 b@example.com queued true"}; !slices.Equal(got, want) {
			t.Fatalf("deliveries %q, want %q", got, want)
		}

		exec(t, db, "DELETE FROM outbox_messages WHERE id = $1", first)
		var left int
		if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM outbox_deliveries").Scan(&left); err != nil || left != 0 {
			t.Fatalf("%d deliveries outlived their message (%v)", left, err)
		}
	})
}

// The constraints mirror the state machine, so that not even a statement typed by hand can break it.
func TestConstraintsMirrorTheStateMachine(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d schema.Dialect, connect func() *sql.DB) {
		db := connect()
		migrate(t, db, d)
		exec(t, db, insert, first, "<m@example.com>", nil, `["a@example.com"]`, nil, []byte("abc"))
		const lease = "lease_token = '01890000-0000-7000-8000-0000000000ff'"
		for _, set := range []string{
			"state = 'lost'",
			"state = 'sending'",
			lease,
			"doubt_token = '01890000-0000-7000-8000-0000000000ff'",
			"lapses = -1",
			"state = 'sent'",
			"finished_at = '2030-01-01T00:00:00.000Z'",
			"state = 'held', finished_at = '2030-01-01T00:00:00.000Z'",
			"attempts = -1",
			"seq = 0",
			"recipient = ''",
		} {
			if _, err := db.ExecContext(t.Context(), "UPDATE outbox_deliveries SET "+set); err == nil {
				t.Errorf("the table takes SET %s", set)
			}
		}
		for _, set := range []string{
			"state = 'sending', " + lease,
			"state = 'uncertain', lease_token = NULL, doubt_token = '01890000-0000-7000-8000-0000000000ff'",
			"state = 'sent', doubt_token = NULL, finished_at = '2030-01-01T00:00:00.000Z'",
		} {
			exec(t, db, "UPDATE outbox_deliveries SET "+set)
		}
		for name, args := range map[string][]any{
			"no recipient":      {"01890000-0000-7000-8000-000000000003", "<n@example.com>", nil, `[]`, nil, []byte("abc")},
			"recipients object": {"01890000-0000-7000-8000-000000000004", "<n@example.com>", nil, `{"to":"a@example.com"}`, nil, []byte("abc")},
			"an id of no kind":  {"12", "<n@example.com>", nil, `["a@example.com"]`, nil, []byte("abc")},
			"a time of no kind": {"01890000-0000-7000-8000-000000000005", "<n@example.com>", nil, `["a@example.com"]`, "soon", []byte("abc")},
		} {
			if _, err := db.ExecContext(t.Context(), insert, args...); err == nil {
				t.Errorf("the table takes a message with %s", name)
			}
		}
	})
}
