// Package pgschema puts the tables of outbox into a PostgreSQL schema. It writes the name of the schema into the text of each
// statement and does not set the search path, because PgBouncer in transaction mode does not keep one for each session.
package pgschema

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxName is the longest name in bytes that PostgreSQL does not truncate (NAMEDATALEN - 1).
const maxName = 63

// Check returns an error if name cannot be the name of the schema. Quoting makes every other name usable. Two dollar signs in a
// row are refused because they would end the quoted bodies of functions that contain the name.
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

// Quote returns a name as a quoted identifier of SQL.
func Quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// relations matches the names of outbox's tables, view and functions. It does not match indexes, constraints and triggers, whose
// names never take a schema.
var relations = regexp.MustCompile(`\boutbox_(?:` +
	`(?:actions|attempts|chores|claims|clock|deliveries|dispatchers|feedback|fences|messages|migrations|relays|routes|suppressions)\b|` +
	`(?:expand_recipients|forget_fences|forget_messages|notify|refuse)\()`)

// Qualify prefixes the names of outbox's tables, view and functions in a statement with the schema. It returns the statement
// unchanged if schema is empty.
func Qualify(statement, schema string) string {
	if schema == "" {
		return statement
	}
	prefix := Quote(schema) + "."
	return relations.ReplaceAllStringFunc(statement, func(name string) string { return prefix + name })
}
