package schema

import (
	"errors"
	"fmt"

	"github.com/outboxmail/outbox/internal/pgschema"
)

// Option says where the tables are, or what the database must be.
type Option func(*settings) error

// settings are what the options say.
type settings struct {
	schema        string // "" is where the search path leads
	applicationID int32
	claimed       bool // applicationID was given
	from          int  // SQL leaves out the steps up to this one
}

// In names the schema of PostgreSQL that holds the tables. [Migrate] creates it where it is missing, which needs the right to
// create schemas in the database; where it is there already, the right to create tables in it is enough. Statements name the
// schema themselves and need nothing of the session, so that they also work behind PgBouncer in transaction mode.
//
// The name is taken as it is, case included, and must be given to everything else too: store.Schema, Config.Schema of package
// outbox, postgres.Schema, outboxctl --schema. Several schemas of one database are several outboxes that do not know of each
// other. SQLite has no schemas: there In is an error. Defaults to the search path of the session.
func In(name string) Option {
	return func(s *settings) error {
		s.schema = name
		return pgschema.Check(name)
	}
}

// ApplicationID says that an SQLite file with this application_id is the caller's own. Programs mark the files of their format
// with "PRAGMA application_id"; 0, the default, marks nothing. [Migrate] and [Check] refuse a file that is marked and holds no
// tables of outbox, because it is more likely to be opened by mistake than meant; a caller whose application marks its files
// gives that number here. Then a file that is marked with any other number is refused, even one that holds tables of outbox.
// A mark is never written. PostgreSQL knows no such thing: there it is an error.
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
		return set, errors.New("SQLite has no schemas: leave schema.In away")
	}
	if d == Postgres && set.claimed {
		return set, errors.New("PostgreSQL has no application_id: leave schema.ApplicationID away")
	}
	return set, nil
}
