// Package schema holds the tables of outbox as migrations for SQLite and PostgreSQL.
//
// [Migrate] brings a database to [Latest], in one transaction and under a lock. Any number of processes may call it at once: one does
// the work, the others wait and find it done. The applied steps are recorded in outbox_migrations with their checksums. A database that
// was migrated by another text, or that is newer than the program, is refused with a sentence that says what to do.
//
// The tables stand in the application's own database, because a message commits with the application's data. On PostgreSQL the search path
// of the session leads to them, or [In] names their schema. The encoding of the database may be any that can store the messages. An
// SQLite file that another program marked as its own is left alone; see [ApplicationID].
//
// To migrate with another tool, take the statements from [SQL] or from "outboxctl migrate sql".
package schema

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/outboxmail/outbox/internal/pgschema"
)

// Dialect names the SQL that a database speaks.
type Dialect string

// The dialects.
const (
	// SQLite is SQLite 3.38 or later.
	SQLite Dialect = "sqlite"
	// Postgres is PostgreSQL 14 or later.
	Postgres Dialect = "postgres"
)

//go:embed migrations/*/*.sql
var files embed.FS

// Migration is one step of the schema. It never changes once it was released.
type Migration struct {
	// Version counts from 1.
	Version int
	// Name describes the step.
	Name string
	// SQL holds its statements.
	SQL string
	// Checksum is the SHA-256 of SQL in hexadecimal.
	Checksum string
}

// latest is the version of both dialects. A test compares it with the files.
const latest = 1

// Latest returns the version of the schema that this program needs.
func Latest() int { return latest }

// Migrations lists the steps of a dialect in their order.
func Migrations(d Dialect) ([]Migration, error) {
	if d != SQLite && d != Postgres {
		return nil, fmt.Errorf("unknown dialect %q: use schema.SQLite or schema.Postgres", string(d))
	}
	dir := path.Join("migrations", string(d))
	entries, err := fs.ReadDir(files, dir)
	if err != nil {
		return nil, fmt.Errorf("read the embedded migrations: %w", err)
	}
	steps := make([]Migration, 0, len(entries))
	for i, e := range entries {
		text, err := fs.ReadFile(files, path.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read migration %s: %w", e.Name(), err)
		}
		number, name, ok := strings.Cut(strings.TrimSuffix(e.Name(), ".sql"), "_")
		version, err := strconv.Atoi(number)
		if !ok || err != nil || version != i+1 {
			return nil, fmt.Errorf("migration file %s is not number %d", e.Name(), i+1)
		}
		sum := sha256.Sum256(text)
		steps = append(steps, Migration{Version: version, Name: name, SQL: string(text), Checksum: hex.EncodeToString(sum[:])})
	}
	return steps, nil
}

// migrationsTable is the same text on every dialect, and is created before the first step.
const migrationsTable = `CREATE TABLE IF NOT EXISTS outbox_migrations (
  version    integer NOT NULL PRIMARY KEY,
  checksum   text    NOT NULL,
  applied_at text    NOT NULL
)`

// record returns the statement that records a step as applied.
func record(d Dialect, m Migration) string {
	now := `to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`
	if d == SQLite {
		now = `strftime('%Y-%m-%dT%H:%M:%fZ', 'now')`
	}
	return fmt.Sprintf("INSERT INTO outbox_migrations (version, checksum, applied_at) VALUES (%d, '%s', %s)", m.Version, m.Checksum, now)
}

// SQL returns the statements that build the whole schema in an empty database, for people and other migration tools. They
// also record themselves, so that [Migrate] and [Version] know them afterwards. With [From] it returns only the later steps.
//
// The text is a migration as it is for goose, golang-migrate and psql: one "+goose Up" before the first statement, functions
// between "+goose StatementBegin" and "+goose StatementEnd", no BEGIN and no COMMIT, and no way down.
//
// Of the options it uses [In] and [From]. SQL panics on an unknown dialect, on an option that the dialect does not have, and on a
// version that this program does not know.
func SQL(d Dialect, opts ...Option) string {
	steps, err := Migrations(d)
	if err != nil {
		panic("schema: " + err.Error())
	}
	text, err := script(d, steps, opts)
	if err != nil {
		panic("schema: " + err.Error())
	}
	return text
}

// gooseUp opens the statements of a migration for goose, which takes the mark once in a file.
const gooseUp = "-- +goose Up\n"

// script returns the statements of the steps.
func script(d Dialect, steps []Migration, opts []Option) (string, error) {
	set, err := configure(d, opts)
	if err != nil {
		return "", err
	}
	if set.from > len(steps) {
		return "", fmt.Errorf("version %d is not known, the last is %d", set.from, len(steps))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "-- The tables of outbox for %s, version %d", d, len(steps))
	if set.from > 0 {
		fmt.Fprintf(&b, ", from version %d", set.from)
	}
	b.WriteString(".\n")
	if set.from == len(steps) {
		b.WriteString("-- There is no later step.\n")
		return b.String(), nil
	}
	b.WriteString("-- Run it in one transaction: psql -1 -f FILE, or sqlite3 with BEGIN IMMEDIATE and COMMIT around it.\n\n")
	b.WriteString(gooseUp + "\n")
	if set.from == 0 {
		if set.schema != "" {
			fmt.Fprintf(&b, "CREATE SCHEMA IF NOT EXISTS %s;\n", pgschema.Quote(set.schema))
		}
		b.WriteString(pgschema.Qualify(migrationsTable, set.schema) + ";\n")
	}
	for _, m := range steps[set.from:] {
		fmt.Fprintf(&b, "\n-- %04d %s\n%s\n%s;\n", m.Version, strings.ReplaceAll(m.Name, "_", " "),
			pgschema.Qualify(strings.TrimPrefix(m.SQL, gooseUp), set.schema), pgschema.Qualify(record(d, m), set.schema))
	}
	return b.String(), nil
}

// statements cuts a migration at the semicolons that end a line, except inside a StatementBegin … StatementEnd block,
// because pgx sends one statement at a time.
func statements(text string) []string {
	var (
		list  []string
		b     strings.Builder
		block bool
	)
	flush := func() {
		if s := strings.TrimSpace(b.String()); s != "" {
			list = append(list, strings.TrimSuffix(s, ";"))
		}
		b.Reset()
	}
	for line := range strings.Lines(text) {
		switch trimmed := strings.TrimSpace(line); {
		case trimmed == "-- +goose StatementBegin":
			block = true
		case trimmed == "-- +goose StatementEnd":
			block = false
			flush()
		case !block && (trimmed == "" || strings.HasPrefix(trimmed, "--")):
			// Comments between statements stay in the file.
		default:
			b.WriteString(line)
			if !block && endsStatement(trimmed) {
				flush()
			}
		}
	}
	flush()
	return list
}

// endsStatement looks for a semicolon at the end of a line, before a comment that may follow.
func endsStatement(line string) bool {
	code, _, _ := strings.Cut(line, " --")
	return strings.HasSuffix(strings.TrimSpace(code), ";")
}
