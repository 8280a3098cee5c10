package schema_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/outboxtest"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/sqlite"
)

// source is a database with two mails that were sent, one that is queued, and one that was cancelled.
func source(t *testing.T, db *sql.DB, d schema.Dialect) {
	t.Helper()
	migrate(t, db, d)
	enqueueFor(t, db, "sent1@example.net", "sent2@example.net")
	deliverAll(t, db, d)
	enqueueFor(t, db, "queued@example.net")
	id := enqueueFor(t, db, "cancelled@example.net")
	err := outbox.Do(t.Context(), db, func(tx *sql.Tx) error { _, err := outbox.Cancel(t.Context(), tx, id); return err })
	if err != nil {
		t.Fatal(err)
	}
}

// enqueueFor stores a message for each of the addresses, and returns the last id.
func enqueueFor(t *testing.T, db *sql.DB, to ...string) (last outbox.ID) {
	t.Helper()
	err := outbox.Do(t.Context(), db, func(tx *sql.Tx) error {
		for _, address := range to {
			receipt, err := outbox.Enqueue(t.Context(), tx, &outbox.Message{
				From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: address}}, Text: "hi",
			})
			if err != nil {
				return err
			}
			last = receipt.ID
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return last
}

// deliverAll delivers what is due and returns who got something.
func deliverAll(t *testing.T, db *sql.DB, d schema.Dialect) (to []string) {
	t.Helper()
	queue, err := store.New(db, d)
	if err != nil {
		t.Fatal(err)
	}
	inbox := outboxtest.NewInbox(t)
	outboxtest.Deliver(t, queue, inbox)
	for _, m := range inbox.Mail() {
		to = append(to, m.To[0].Address)
	}
	slices.Sort(to)
	return to
}

// states lists the deliveries with their states.
func states(t *testing.T, db *sql.DB) (list []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "SELECT recipient || ' ' || state FROM outbox_deliveries ORDER BY 1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return list
}

var (
	asBefore = []string{"cancelled@example.net cancelled", "queued@example.net queued", "sent1@example.net sent", "sent2@example.net sent"}
	allHeld  = []string{"cancelled@example.net held", "queued@example.net held", "sent1@example.net held", "sent2@example.net held"}
)

// copied says what must stand in a copy, and which mail it sends.
type copied struct {
	states, sent []string
}

var (
	exactly = copied{asBefore, []string{"new@example.net", "queued@example.net"}}
	held    = copied{allHeld, []string{"new@example.net"}}
)

func (c copied) check(t *testing.T, db *sql.DB, d schema.Dialect) {
	t.Helper()
	if err := schema.Check(t.Context(), db, d); err != nil {
		t.Fatal(err)
	}
	if got := states(t, db); !slices.Equal(got, c.states) {
		t.Errorf("the copy has %q, want %q", got, c.states)
	}
	enqueueFor(t, db, "new@example.net")
	if got := deliverAll(t, db, d); !slices.Equal(got, c.sent) {
		t.Errorf("the copy sends to %q, want %q", got, c.sent)
	}
}

// tool runs a program with an input and returns its output and its complaints.
func tool(ctx context.Context, t *testing.T, input []byte, name string, args ...string) (out []byte, complaints string) {
	t.Helper()
	program, err := osexec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	cmd := osexec.CommandContext(ctx, program, args...)
	cmd.Stdin = bytes.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(&stderr, err)
	}
	return stdout.Bytes(), stderr.String()
}

// PostgreSQL is copied with its own tools, whole and table by table. What was sent is never sent again, and what was queued is
// not lost.
func TestCopiesOfPostgreSQL(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		migrated bool
		dumps    [][]string // arguments of pg_dump, one dump after the other
		refused  bool       // the last of them
		want     copied
	}{
		"whole":                     {false, [][]string{{}}, false, exactly},
		"data only":                 {true, [][]string{{"--data-only", "--exclude-table=outbox_migrations"}}, false, exactly},
		"data without triggers":     {true, [][]string{{"--data-only", "--disable-triggers", "--exclude-table=outbox_migrations"}}, false, exactly},
		"data as inserts":           {true, [][]string{{"--data-only", "--inserts", "--exclude-table=outbox_migrations"}}, false, exactly},
		"deliveries, then messages": {true, [][]string{{"--data-only", "-t", "outbox_deliveries"}, {"--data-only", "-t", "outbox_messages"}}, false, exactly},
		"messages, then deliveries": {true, [][]string{{"--data-only", "-t", "outbox_messages"}, {"--data-only", "-t", "outbox_deliveries"}}, true, held},
		"messages alone":            {true, [][]string{{"--data-only", "-t", "outbox_messages"}}, false, held},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to := pgtest.DSN(t), pgtest.DSN(t)
			source(t, openPostgres(t, "postgres", from), schema.Postgres)
			db := openPostgres(t, "postgres", to)
			if c.migrated {
				migrate(t, db, schema.Postgres)
			}
			for i, args := range c.dumps {
				dump, complaints := tool(t.Context(), t, nil, "pg_dump", append(args, "--no-owner", from)...)
				if complaints != "" {
					t.Fatal(complaints)
				}
				_, complaints = tool(t.Context(), t, dump, "psql", "-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", to)
				if refused := c.refused && i == len(c.dumps)-1; refused != strings.Contains(complaints, "duplicate key") || !refused && complaints != "" {
					t.Errorf("psql says %q", complaints)
				}
			}
			c.want.check(t, db, schema.Postgres)
		})
	}
}

// An SQLite file is copied by SQLite itself, by its shell, and table by table.
func TestCopiesOfSQLite(t *testing.T) {
	t.Parallel()
	shell := func(t *testing.T, input []byte, args ...string) []byte {
		t.Helper()
		out, complaints := tool(t.Context(), t, input, "sqlite3", append([]string{"-bail"}, args...)...)
		if complaints != "" {
			t.Fatal(complaints)
		}
		return out
	}
	tables := func(names ...string) func(t *testing.T, db *sql.DB, from, to string) {
		return func(t *testing.T, _ *sql.DB, from, to string) {
			t.Helper()
			migrate(t, openFile(t, to), schema.SQLite)
			var script strings.Builder
			fmt.Fprintf(&script, "ATTACH '%s' AS old;\n", from)
			for _, name := range names {
				fmt.Fprintf(&script, "INSERT INTO main.%s SELECT * FROM old.%s;\n", name, name) //nolint:unqueryvet // a copy is of every column
			}
			shell(t, []byte(script.String()), to)
		}
	}
	for name, c := range map[string]struct {
		copy func(t *testing.T, db *sql.DB, from, to string)
		want copied
	}{
		"VACUUM INTO": {func(t *testing.T, db *sql.DB, _, to string) {
			t.Helper()
			if _, err := db.ExecContext(t.Context(), "VACUUM INTO $1", to); err != nil {
				t.Fatal(err)
			}
		}, exactly},
		".backup": {func(t *testing.T, _ *sql.DB, from, to string) {
			t.Helper()
			shell(t, nil, from, ".backup '"+to+"'")
		}, exactly},
		".dump": {func(t *testing.T, _ *sql.DB, from, to string) {
			t.Helper()
			shell(t, shell(t, nil, from, ".dump"), to)
		}, exactly},
		"deliveries, then messages": {tables("outbox_deliveries", "outbox_messages"), exactly},
		"messages alone":            {tables("outbox_messages"), held},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			from, to := filepath.Join(dir, "from.db"), filepath.Join(dir, "to.db")
			db := openFile(t, from)
			source(t, db, schema.SQLite)
			c.copy(t, db, from, to)
			c.want.check(t, openFile(t, to), schema.SQLite)
		})
	}
}

func openFile(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// The time of the database is that of a new message, however long the transaction and however many the rows.
func TestNewMessagesAreNoCopies(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d schema.Dialect, connect func() *sql.DB) {
		db := connect()
		migrate(t, db, d)
		const rows = 300
		list := make([]*outbox.Message, rows)
		for i := range list {
			list[i] = &outbox.Message{
				From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}},
				Text: strings.Repeat("x", 10000),
			}
		}
		for range 3 {
			err := outbox.Do(t.Context(), db, func(tx *sql.Tx) error { _, err := outbox.EnqueueMany(t.Context(), tx, list); return err })
			if err != nil {
				t.Fatal(err)
			}
		}
		if n := count(t, db, "outbox_deliveries WHERE state = 'queued'"); n != 3*rows {
			t.Errorf("%d deliveries are queued, want %d", n, 3*rows)
		}
	})
}
