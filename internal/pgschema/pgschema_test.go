package pgschema_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/internal/pgschema"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"mail", "Mail", "my-app", `a "quoted" one`, "post.amt", "日本", strings.Repeat("x", 63), "--", "a b", "a$b", "$"} {
		if err := pgschema.Check(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, why := range map[string]string{
		"": "empty", strings.Repeat("x", 64): "at most 63 bytes, this one has 64", "a\x00b": "one line", "a\nb": "one line", "\xff": "one line",
		`x"$$;DROP TABLE users;--`: "two dollar signs", "pg_temp": "belongs to PostgreSQL", "information_schema": "belongs to PostgreSQL",
	} {
		if err := pgschema.Check(name); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: the error is %v, want one that says %q", name, err, why)
		}
	}
}

func TestQualify(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ schema, statement, want string }{
		{"", "SELECT 1 FROM outbox_messages", "SELECT 1 FROM outbox_messages"},
		{"mail", "SELECT 1 FROM outbox_messages m, outbox_clock", `SELECT 1 FROM "mail".outbox_messages m, "mail".outbox_clock`},
		{"mail", "CREATE INDEX outbox_deliveries_due ON outbox_deliveries (route)", `CREATE INDEX outbox_deliveries_due ON "mail".outbox_deliveries (route)`},
		{
			"mail", "CREATE TRIGGER outbox_notify AFTER INSERT ON outbox_messages EXECUTE FUNCTION outbox_notify()",
			`CREATE TRIGGER outbox_notify AFTER INSERT ON "mail".outbox_messages EXECUTE FUNCTION "mail".outbox_notify()`,
		},
		{`$1 "%s`, "SELECT now FROM outbox_clock", `SELECT now FROM "$1 ""%s".outbox_clock`},
		{"mail", "CONSTRAINT outbox_messages_sound CHECK (TRUE)", "CONSTRAINT outbox_messages_sound CHECK (TRUE)"},
	} {
		if got := pgschema.Qualify(test.statement, test.schema); got != test.want {
			t.Errorf("%s in %q: got\n%s\nwant\n%s", test.statement, test.schema, got, test.want)
		}
	}
}

// Qualify knows every name that the migrations create. The test fails when a new table is missing from its list.
func TestEverythingThatIsMadeIsQualified(t *testing.T) {
	t.Parallel()
	made := regexp.MustCompile(`CREATE (?:TABLE|VIEW|SEQUENCE|TYPE|FUNCTION) (?:IF NOT EXISTS )?(outbox_\w+)`)
	files, err := filepath.Glob("../../schema/migrations/postgres/*.sql")
	if err != nil || len(files) == 0 {
		t.Fatalf("no migrations found: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		qualified := pgschema.Qualify(string(text), "mail")
		for _, m := range made.FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(qualified, `"mail".`+m[1]) {
				t.Errorf("%s makes %s, which Qualify does not know", filepath.Base(file), m[1])
			}
		}
	}
}
