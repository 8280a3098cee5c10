// Package page_test runs what docs/integrations.md shows beside Go: every command, every statement and every program.
package page_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	_ "github.com/lib/pq" // the driver "postgres"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/examples/integrations/internal/trial"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/outboxtest"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
)

const root = "../../.."

// blocks returns the blocks of a language below a heading of the page, or below all for an empty heading.
func blocks(t *testing.T, heading, language string) []string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs", "integrations.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	if heading != "" {
		var found bool
		if _, text, found = strings.Cut(text, "\n## "+heading+"\n"); !found {
			t.Fatalf("the page has no heading %q", heading)
		}
		text, _, _ = strings.Cut(text, "\n## ")
	}
	var list []string
	for _, rest := range strings.Split(text, "```"+language+"\n")[1:] {
		code, _, _ := strings.Cut(rest, "```")
		list = append(list, code)
	}
	if len(list) == 0 {
		t.Fatalf("there is no %s below %q", language, heading)
	}
	return list
}

// Every block of the page is of a kind that a test runs: internal/pages those in Go, and this package the others.
func TestEveryBlockIsRun(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(root, "docs", "integrations.md"))
	if err != nil {
		t.Fatal(err)
	}
	run := len(blocks(t, "", "go")) + len(blocks(t, "Migrations", "sh")) + len(blocks(t, "Rows written by plain SQL", "sql")) +
		len(blocks(t, "Rows written by plain SQL", "python")) + len(blocks(t, "Rights", "sql")) +
		len(blocks(t, "Copies and restores", "sh")) + len(blocks(t, "Copies and restores", "sql"))
	if marks := bytes.Count(page, []byte("\n```")); marks != 2*run {
		t.Errorf("the page has %d blocks, and %d are run", marks/2, run)
	}
}

// programs is where outboxctl is built.
var programs string

func TestMain(m *testing.M) {
	var err error
	if programs, err = os.MkdirTemp("", "outbox-page-"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(programs)
	os.Exit(code)
}

// outboxctl builds the command once and returns its folder.
var outboxctl = sync.OnceValues(func() (string, error) {
	build := exec.Command("go", "build", "-o", programs, "./cmd/outboxctl")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build outboxctl: %w: %s", err, out)
	}
	return programs, nil
})

// shell runs commands as the page shows them, in a folder of their own, with an outboxctl of this code.
func shell(t *testing.T, dir, commands string, env ...string) {
	t.Helper()
	for _, program := range []string{"bash", "psql", "pg_dump", "sqlite3"} {
		if strings.Contains(commands, program) || program == "bash" {
			if _, err := exec.LookPath(program); err != nil {
				t.Skipf("%s is not installed", program)
			}
		}
	}
	bin := ""
	if strings.Contains(commands, "outboxctl") {
		var err error
		if bin, err = outboxctl(); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", commands)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), append(env, "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s\n%v\n%s", commands, err, out)
	}
}

func TestMigrations(t *testing.T) {
	t.Parallel()
	dsn, dir := pgtest.DSN(t), t.TempDir()
	for _, commands := range blocks(t, "Migrations", "sh") {
		shell(t, dir, commands, "TO="+dsn)
	}
	if err := schema.Check(t.Context(), trial.Open(t, "postgres", dsn), schema.Postgres); err != nil {
		t.Error(err)
	}
}

// enqueue stores a message in a transaction of its own.
func enqueue(t *testing.T, db *sql.DB, to string) {
	t.Helper()
	err := outbox.Do(t.Context(), db, func(tx *sql.Tx) error {
		_, err := outbox.Enqueue(t.Context(), tx, &outbox.Message{
			From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: to}}, Text: "hi",
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// deliver delivers what is due.
func deliver(t *testing.T, db *sql.DB, d schema.Dialect) *outboxtest.Inbox {
	t.Helper()
	queue, err := store.New(db, d)
	if err != nil {
		t.Fatal(err)
	}
	inbox := outboxtest.NewInbox(t)
	outboxtest.Deliver(t, queue, inbox)
	return inbox
}

// A copy sends what was queued and nothing that was sent.
func TestCopies(t *testing.T) {
	t.Parallel()
	for _, commands := range blocks(t, "Copies and restores", "sh") {
		name, _, _ := strings.Cut(commands, "\n")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, driver, from, to := schema.Postgres, "postgres", "", ""
			if strings.HasPrefix(commands, "sqlite3") {
				d, driver, from, to = schema.SQLite, "sqlite", trial.SQLite(t), filepath.Join(t.TempDir(), "copy.db")
			} else {
				from, to = trial.Postgres(t), pgtest.DSN(t)
			}
			open := func(database string) *sql.DB {
				t.Helper()
				if d == schema.SQLite {
					database = "file:" + database + "?_txlock=immediate&_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)"
				}
				return trial.Open(t, driver, database)
			}
			source := open(from)
			if !strings.Contains(commands, "migrate up") {
				commands = strings.TrimSpace(commands)
			} else if _, err := source.ExecContext(t.Context(), "DROP TABLE orders, stock"); err != nil { // they are not in the copy
				t.Fatal(err)
			}
			enqueue(t, source, "sent@example.org")
			deliver(t, source, d)
			enqueue(t, source, "queued@example.org")
			shell(t, t.TempDir(), commands, "FROM="+from, "TO="+to)
			inbox := deliver(t, open(to), d)
			inbox.Require(outboxtest.Match{To: "queued@example.org"})
			if n := len(inbox.Mail()); n != 1 {
				t.Errorf("the copy sends %d mails, want 1", n)
			}
		})
	}
}

// Messages that were inserted with the triggers off are found, and held.
func TestMessagesWithoutDeliveries(t *testing.T) {
	t.Parallel()
	db := trial.Open(t, "postgres", trial.Postgres(t))
	find, hold := blocks(t, "Copies and restores", "sql")[0], blocks(t, "Copies and restores", "sql")[1]
	enqueue(t, db, "ann@example.org")
	for _, statement := range []string{"ALTER TABLE outbox_messages DISABLE TRIGGER USER", "", "ALTER TABLE outbox_messages ENABLE TRIGGER USER"} {
		if statement == "" {
			enqueue(t, db, "bob@example.org")
		} else if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{1, 0} {
		found := 0
		rows, err := db.QueryContext(t.Context(), find)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			found++
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		_ = rows.Close()
		if found != want {
			t.Errorf("%d messages without deliveries were found, want %d", found, want)
		}
		if _, err := db.ExecContext(t.Context(), hold); err != nil {
			t.Fatal(err)
		}
	}
	queue, err := store.New(db, schema.Postgres)
	if err != nil {
		t.Fatal(err)
	}
	list, err := queue.List(t.Context(), store.Filter{States: []outbox.State{outbox.StateHeld}})
	if err != nil || len(list) != 1 || list[0].Recipient != "bob@example.org" {
		t.Errorf("held: %+v (%v), want the delivery to bob", list, err)
	}
}
