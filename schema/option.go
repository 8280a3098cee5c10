package schema

import (
	"errors"
	"fmt"

	"github.com/outboxmail/outbox/internal/pgschema"
)

// Option changes where the tables are, or what is expected of the database.
type Option func(*settings) error

// settings holds the values of the options.
type settings struct {
	schema        string // "" is where the search path leads
	applicationID int32
	claimed       bool // applicationID was given
	from          int  // SQL leaves out the steps up to this one
}

// In names the PostgreSQL schema that holds the tables. [Migrate] creates a missing schema, for which it needs the right to create
// schemas in the database. In a schema that exists, the right to create tables is enough. Statements name the schema themselves and
// need no setting of the session, so they also work behind PgBouncer in transaction mode.
//
// The name is case-sensitive. Give it to store.Schema, Config.Schema of package outbox, postgres.Schema and outboxctl --schema, too.
// Several schemas of one database are several outboxes that do not know of each other. In is an error on SQLite. Defaults to the
// search path of the session.
func In(name string) Option {
	return func(s *settings) error {
		s.schema = name
		return pgschema.Check(name)
	}
}

// ApplicationID says that SQLite files with this application_id are the caller's own. Programs mark files of their format with "PRAGMA
// application_id"; 0 means no mark. [Migrate] and [Check] refuse a marked file without tables of outbox, because it was probably opened
// by mistake. If your application marks its files, give the number here. A file with any other mark is then refused, even one with tables
// of outbox. A mark is never written. ApplicationID is an error on PostgreSQL.
func ApplicationID(id int32) Option {
	return func(s *settings) error {
		s.applicationID, s.claimed = id, true
		return nil
	}
}

// From lets [SQL] return only the steps after a version: those that a database of that version still needs. Defaults to 0, an
// empty database. It is an error for everything else, which asks the database for its version.
func From(version int) Option {
	return func(s *settings) error {
		if version < 0 {
			return fmt.Errorf("a version counts from 0, not %d", version)
		}
		s.from = version
		return nil
	}
}

// configureFor gathers the options of a call that looks at a database.
func configureFor(d Dialect, opts []Option) (settings, error) {
	set, err := configure(d, opts)
	if err == nil && set.from > 0 {
		err = errors.New("schema.From is for schema.SQL: leave it away, the database knows its version")
	}
	return set, err
}

// configure gathers the options.
func configure(d Dialect, opts []Option) (settings, error) {
	var set settings
	for _, opt := range opts {
		if err := opt(&set); err != nil {
			return set, err
		}
	}
	if d == SQLite && set.schema != "" {
		return set, errors.New("SQLite has no schemas: remove schema.In")
	}
	if d == Postgres && set.claimed {
		return set, errors.New("PostgreSQL has no application_id: remove schema.ApplicationID")
	}
	return set, nil
}
