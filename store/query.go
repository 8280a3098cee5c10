package store

import (
	"embed"
	"fmt"
	"regexp"
	"strings"

	"github.com/outboxmail/outbox/schema"
)

//go:embed queries/*.sql
var queryFiles embed.FS

// queries holds the named statements of one dialect.
type queries map[string]string

// numbered is a parameter. In SQLite "$2" is a name, and a driver may give it the second argument or that of its place among
// the names; "?2" is the second argument with every driver.
var numbered = regexp.MustCompile(`\$(\d+)`)

// loadQueries reads common.sql and the dialect's own file. Each statement stands under a line "-- name: x". claim_alone is made of claim.
func loadQueries(d schema.Dialect) (queries, error) {
	all := make(queries)
	for _, file := range []string{"common", string(d)} {
		text, err := queryFiles.ReadFile("queries/" + file + ".sql")
		if err != nil {
			return nil, fmt.Errorf("read the statements of %s: %w", file, err)
		}
		for part := range strings.SplitSeq("\n"+string(text), "\n-- name: ") {
			name, statement, ok := strings.Cut(part, "\n")
			if !ok || strings.HasPrefix(part, "\n") {
				continue // what stands before the first name
			}
			if _, twice := all[name]; twice {
				return nil, fmt.Errorf("statement %s stands twice", name)
			}
			statement = strings.TrimSuffix(strings.TrimSpace(statement), ";")
			if d == schema.SQLite {
				statement = numbered.ReplaceAllString(statement, "?$1")
			}
			all[name] = statement
		}
	}
	all["claim_alone"] = strings.ReplaceAll(all["claim"], "lapses < 2", "lapses >= 2")
	return all, nil
}

// get returns a statement by its name; the names are fixed in this package, and a test looks each of them up.
func (q queries) get(name string) string {
	statement, ok := q[name]
	if !ok {
		panic("store: no statement is named " + name)
	}
	return statement
}
