package pages

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/outboxtest"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/smtpx/smtptest"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
	"github.com/outboxmail/outbox/store/sqlite"
)

// ellipsis is what a page writes where a reader writes a password.
const ellipsis = "…"

var (
	postgresURL = regexp.MustCompile(`postgres(?:ql)?://[^\s"']+`)
	relayURL    = regexp.MustCompile(`smtps?://(?:([^\s"':@/]+)(?::[^\s"'@/]*)?@)?[^\s"']+`)
	changesTree = regexp.MustCompile(`(?m)^\s*(go get|go mod|git) `)
	inTree      = regexp.MustCompile(`(^|\s)(\./|\.\./|go |make |cd )`)
)

// commands returns what bash runs of a block: its lines without those that are left out. An omission that leaves out nothing is an error.
func (b *block) commands() (script string, err error) {
	left := make([]bool, len(b.without))
	var kept strings.Builder
	skipping := false
	for line := range strings.Lines(b.code) {
		if !skipping {
			for i, o := range b.without {
				if strings.HasPrefix(strings.TrimSpace(line), o.words) {
					skipping, left[i] = true, true
				}
			}
		}
		if !skipping {
			kept.WriteString(line)
		}
		skipping = skipping && strings.HasSuffix(strings.TrimRight(line, "\n"), `\`) // a command may go on
	}
	for i, o := range b.without {
		if !left[i] {
			return "", fmt.Errorf("%v: no command begins with %q", b, o.words)
		}
	}
	return kept.String(), nil
}

// tools is where outboxctl is built, once for all blocks.
var tools = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "outbox-pages-"); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(context.Background(), "go", "build", "-o", filepath.Join(dir, "outboxctl"), "./cmd/outboxctl")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := tools(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// run runs commands as the package comment says, and returns what is wrong with them.
func run(t *testing.T, b *block) error {
	t.Helper()
	script, err := b.commands()
	if err != nil {
		return err
	}
	if found := changesTree.FindString(script); found != "" {
		return fmt.Errorf("%v: %s would change this tree: leave it out with a comment", b, strings.TrimSpace(found))
	}
	bin, err := tools()
	if err != nil {
		return err
	}
	if postgresURL.MatchString(script) {
		script = postgresURL.ReplaceAllLiteralString(script, onPostgres(t))
	}
	script = relayURL.ReplaceAllStringFunc(script, func(found string) string {
		user := relayURL.FindStringSubmatch(found)[1]
		server := smtptest.New(t, smtptest.Config{User: user, Password: ellipsis})
		if strings.HasPrefix(found, "smtp://"+user+"@") {
			return "'" + strings.Replace(server.URLFor(user, ""), ":@", "@", 1) + "'" // the password comes from somewhere else
		}
		return "'" + server.URL() + "'"
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = t.TempDir()
	if inTree.MatchString(script) {
		cmd.Dir = filepath.Join(root, filepath.Dir(b.page))
		if !strings.Contains(script, "../") {
			cmd.Dir = root
		}
	}
	cmd.Env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"), "OUTBOX_DB="+onSQLite(t))
	cmd.WaitDelay = 10 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%v: %w\n%s\n%s", b, err, script, &out)
	}
	return nil
}

// onSQLite returns a database with messages of an application, for outboxctl.
func onSQLite(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "app.db")
	db, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := schema.Migrate(t.Context(), db, schema.SQLite); err != nil {
		t.Fatal(err)
	}
	queue, err := store.New(db, schema.SQLite)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, db, queue)
	return "sqlite:" + path
}

// onPostgres returns the URL of such a database. Without a server the test is skipped.
func onPostgres(t *testing.T) string {
	t.Helper()
	dsn := pgtest.DSN(t)
	db, err := postgres.Open(dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := schema.Migrate(t.Context(), db, schema.Postgres); err != nil {
		t.Fatal(err)
	}
	queue, err := store.New(db, schema.Postgres)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, db, queue)
	return "'" + dsn + "'"
}

// fill leaves a message in each of some states.
func fill(t *testing.T, db *sql.DB, queue *store.Store) {
	t.Helper()
	relay := new(outboxtest.Relay)
	for i, demand := range []func(){
		func() {},
		func() { relay.Fail(1, outboxtest.ErrNoSuchUser) },
		func() { relay.Fail(1, outboxtest.ErrBusy) },
		func() { relay.LoseReplies(1) },
		func() { relay.Fail(1, outboxtest.ErrUnreachable) },
	} {
		err := outbox.Do(t.Context(), db, func(tx *sql.Tx) error {
			_, err := outbox.Enqueue(t.Context(), tx, &outbox.Message{
				From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: fmt.Sprintf("ann%d@example.org", i)}},
				Subject: fmt.Sprintf("Your order %d", i), Text: "Thank you!", OnUncertain: outbox.Hold,
			})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		demand()
		outboxtest.Deliver(t, queue, relay)
	}
}

// TestCommands runs every block of commands on every page.
func TestCommands(t *testing.T) {
	for _, blocks := range blocksOf(t, "sh") {
		for _, b := range blocks {
			t.Run(b.String(), func(t *testing.T) {
				if b.skipped != "" {
					return
				}
				if err := run(t, b); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestCommandsThatFailAreFound(t *testing.T) {
	for _, tt := range []struct{ name, page, want string }{
		{"a command that works", "```sh\noutboxctl status\noutboxctl list -o id | wc -l\n```\n", ""},
		{"a file of the tree", "```sh\nhead -1 ./README.md\n```\n", ""},
		{"some left out", "<!-- not run \"sleep\": it never ends -->\n```sh\nsleep \\\n  1d\noutboxctl version\n```\n", ""},
		{"a relay", "```sh\noutboxctl requeue --state failed --yes\nOUTBOX_RELAY_PASSWORD=… outboxctl flush --relay smtp://app@smtp.example.com:587\n```\n", ""},

		{"an unknown command", "```sh\noutboxctl frobnicate\n```\n", "a.md:1: exit status 2"},
		{"an unknown flag, and one that works behind it", "```sh\noutboxctl list --colour\noutboxctl version\n```\n", "unknown flag: --colour"},
		{"the first of a pipe", "```sh\noutboxctl list --colour | cat\n```\n", "exit status 2"},
		{"a program that is not there", "```sh\noutboxcontrol list\n```\n", "exit status 127"},
		{"a variable that is not set", "```sh\necho $OUTBOX_NOTHING\n```\n", "unbound variable"},
		{"a command that changes the tree", "```sh\noutboxctl version\n  go get github.com/outboxmail/outbox\n```\n", "go get would change this tree"},
		{"a wrong omission", "<!-- not run \"slep\": it never ends -->\n```sh\nsleep 0\n```\n", `no command begins with "slep"`},
	} {
		blocks, err := parsePage("a.md", tt.page)
		if err != nil {
			t.Fatal(err)
		}
		err = run(t, blocks[0])
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestCommandsOnPostgres(t *testing.T) {
	blocks, err := parsePage("a.md", "```sh\nexport OUTBOX_DB=postgres://app@db.example.com/shop\noutboxctl list -o id --state sent | grep .\n```\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t, blocks[0]); err != nil {
		t.Error(err)
	}
}
