package pgtest

import (
	"crypto/rand"
	"net/url"
	"strings"
	"testing"

	"github.com/lib/pq"
)

// Role creates a role that may only connect. It returns dsn with this role as its user, and the role's name. When the test ends,
// Role drops the role and everything that it owns in this database.
func Role(tb testing.TB, dsn string) (roleDSN, name string) {
	tb.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		tb.Fatal(err)
	}
	name = "outbox_role_" + strings.ToLower(rand.Text()[:16])
	password, quoted := rand.Text(), pq.QuoteIdentifier(name)
	if err := adminExec(dsn, "CREATE ROLE "+quoted+" LOGIN PASSWORD "+pq.QuoteLiteral(password)); err != nil {
		tb.Fatalf("create a role for the test: %v", err)
	}
	tb.Cleanup(func() {
		for _, statement := range []string{"DROP OWNED BY " + quoted + " CASCADE", "DROP ROLE " + quoted} {
			if err := adminExec(dsn, statement); err != nil {
				tb.Errorf("drop the role of the test: %v", err)
			}
		}
	})
	u.User = url.UserPassword(name, password)
	return u.String(), name
}
