package page_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/examples/integrations/internal/trial"
	"github.com/outboxmail/outbox/outboxtest"
	"github.com/outboxmail/outbox/schema"
)

func TestRowFromPLpgSQL(t *testing.T) {
	t.Parallel()
	db := trial.Open(t, "postgres", trial.Postgres(t))
	exec := func(query string, args ...any) error {
		_, err := db.ExecContext(t.Context(), query, args...)
		return err
	}
	if err := exec(blocks(t, "Rows written by plain SQL", "sql")[0]); err != nil {
		t.Fatal(err)
	}
	for range 2 { // stored once
		if err := exec("SELECT send_mail('ann@example.org', 'Your order 7', $1, 'order-7')", strings.Repeat("Größe – ", 100)); err != nil {
			t.Fatal(err)
		}
	}
	if err := exec("SELECT send_mail($1, 'Your order 8', 'hi')", "ann@example.org\r\nBcc: eve@example.org"); err == nil {
		t.Error("a second header field is taken for an address")
	}
	inbox := deliver(t, db, schema.Postgres)
	mail := inbox.Require(outboxtest.Match{To: "ann@example.org", Subject: "Your order 7"})
	if n := len(inbox.Mail()); n != 1 || strings.TrimSpace(mail.Text) != strings.TrimSpace(strings.Repeat("Größe – ", 100)) {
		t.Errorf("%d mails, the last says %q", n, mail.Text)
	}
}

// The Python of the system, because psycopg2 is a package of the system.
func TestRowFromPython(t *testing.T) {
	t.Parallel()
	script := filepath.Join(t.TempDir(), "enqueue.py")
	if err := os.WriteFile(script, []byte(blocks(t, "Rows written by plain SQL", "python")[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	python := "/usr/bin/python3"
	if _, err := os.Stat(python); err != nil {
		if python, err = exec.LookPath("python3"); err != nil {
			t.Skip("python3 is not installed")
		}
	}
	for d, c := range map[schema.Dialect]struct {
		driver, module string
		database       func(t *testing.T) string
	}{
		schema.Postgres: {"postgres", "psycopg2", trial.Postgres},
		schema.SQLite:   {"sqlite", "sqlite3", trial.SQLite},
	} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			if exec.CommandContext(t.Context(), python, "-c", "import "+c.module).Run() != nil {
				t.Skipf("%s has no module %s: on Debian, install python3-%s", python, c.module, c.module)
			}
			database := c.database(t)
			for range 2 { // stored once
				if out, err := exec.CommandContext(t.Context(), python, script, database).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			inbox := deliver(t, trial.Open(t, c.driver, database), d)
			mail := inbox.Require(outboxtest.Match{To: "ann@example.org", Subject: "Größe geändert"})
			if n := len(inbox.Mail()); n != 1 || !strings.Contains(mail.Text, "Die neue Größe ist unterwegs.") {
				t.Errorf("%d mails, the last says %q", n, mail.Text)
			}
		})
	}
}
