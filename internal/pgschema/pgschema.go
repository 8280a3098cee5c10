// Package pgschema puts the tables of outbox into a schema of PostgreSQL by naming it in the text of statements. The search
// path of the session is left alone: behind PgBouncer in transaction mode a session has none of its own.
package pgschema

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxName is the length in bytes up to which PostgreSQL keeps a name as it is (NAMEDATALEN - 1).
const maxName = 63

// Check says why a name cannot be that of a schema, or nil. Any other name can, because it is quoted wherever it stands. Two dollar
// signs would end the quotes of the functions that hold the name.
func Check(name string) error {
	switch {
	case name == "":
		return errors.New("the name of a schema must not be empty")
	case len(name) > maxName:
		return fmt.Errorf("the name of a schema has at most %d bytes, this one has %d", maxName, len(name))
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("the name of a schema must be text on one line, not %q", name)
	case strings.Contains(name, "$$"):
		return fmt.Errorf("the name of a schema must not have two dollar signs in a row, as %q has", name)
	case strings.HasPrefix(name, "pg_"), name == "information_schema":
		return fmt.Errorf("the schema %s belongs to PostgreSQL", name)
	default:
		return nil
	}
}

// Quote returns a name as it stands in SQL.
func Quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// relations are the tables, the view and the functions of outbox. Names of indexes and constraints, which begin with that of
// a table, and of triggers are not among them: they never take a schema.
var relations = regexp.MustCompile(`\boutbox_(?:` +
	`(?:actions|attempts|chores|clock|deliveries|dispatchers|feedback|messages|migrations|relays|routes|suppressions)\b|` +
	`(?:expand_recipients|forget_messages|notify|refuse)\()`)

// Qualify puts the name of a schema in front of everything of outbox's that a statement names. Without one the statement stays
// as it is.
func Qualify(statement, schema string) string {
	if schema == "" {
		return statement
	}
	prefix := Quote(schema) + "."
	return relations.ReplaceAllStringFunc(statement, func(name string) string { return prefix + name })
}
