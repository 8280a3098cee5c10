package outbox

import (
	"errors"
	"fmt"
	"strings"

	"github.com/outboxmail/outbox/internal/letter"
	"github.com/outboxmail/outbox/internal/sqlstate"
)

// InvalidError says that a value can never be sent or stored. Nothing was written and the transaction is as it was. It is
// returned as *InvalidError; [errors.As] also fills a value.
type InvalidError struct {
	// Field names the wrong field of [Message] or [Config]. It is "Message" for the message as a whole, and "ID" for an id.
	Field string
	// Err is the reason.
	Err error
}

// Error names the field and the reason.
func (e InvalidError) Error() string { return "invalid " + e.Field + ": " + e.Err.Error() }

// Unwrap returns Err.
func (e InvalidError) Unwrap() error { return e.Err }

// As lets [errors.As] fill a variable of type InvalidError.
func (e InvalidError) As(target any) bool {
	if t, ok := target.(*InvalidError); ok {
		*t = e
		return true
	}
	return false
}

// invalid makes an InvalidError.
func invalid(field, format string, args ...any) error {
	return &InvalidError{Field: field, Err: fmt.Errorf(format, args...)}
}

// ErrNotMigrated says that the outbox tables are missing or older than this program. Nothing was written. On PostgreSQL the
// transaction has failed and can only be rolled back.
var ErrNotMigrated = errors.New("the database has no outbox tables, or outdated ones: run `outboxctl migrate up` or call schema.Migrate")

// explain wraps the error of a driver about a statement of this package.
func (o *Outbox) explain(verb string, err error) error {
	switch {
	case lostArguments(err):
		return fmt.Errorf("%s: %w (%w)", verb, errNoArguments, err)
	case !notMigrated(err):
		return fmt.Errorf("%s: %w", verb, err)
	case o.schema == "":
		return fmt.Errorf("%s: %w (%w)", verb, ErrNotMigrated, err)
	case sqlstate.Of(err) != "":
		return fmt.Errorf("%s: in the schema %s %w, naming the schema (%w)", verb, letter.Quote(o.schema), ErrNotMigrated, err)
	default:
		return fmt.Errorf("%s: SQLite has no schemas: leave Config.Schema empty (%w)", verb, err)
	}
}

// notMigrated reports whether a statement failed because the outbox tables are missing or old. The PostgreSQL drivers have a
// typed code for it. SQLite has none: a missing table and a syntax error share SQLITE_ERROR, so its text decides.
func notMigrated(err error) bool {
	if state := sqlstate.Of(err); state != "" {
		return state == sqlstate.UndefinedTable || state == sqlstate.UndefinedColumn
	}
	text := err.Error()
	_, table, _ := strings.Cut(text, "no such table: ")
	return strings.HasPrefix(table[strings.LastIndexByte(table, '.')+1:], "outbox_") ||
		strings.Contains(text, "table outbox_messages has no column named")
}

// errNoArguments says that a transaction changed the statement on its way.
var errNoArguments = errors.New("the transaction did not pass the arguments of the statement on, as a bun.Tx does not: " +
	"give the *sql.Tx inside it (tx.Tx)")

// lostArguments reports whether a statement of this package came to the database without its arguments. PostgreSQL has a code
// for it. On SQLite the driver refuses the statement, and its text decides: modernc's and mattn's.
func lostArguments(err error) bool {
	if state := sqlstate.Of(err); state != "" {
		return state == sqlstate.UndefinedParameter
	}
	text := err.Error()
	return strings.Contains(text, "missing named argument") || strings.Contains(text, "missing argument with index") ||
		strings.Contains(text, "not enough args to execute query")
}

// errNoTx is returned where the transaction is nil.
var errNoTx = errors.New("there is no transaction: it is nil")

// errSwallowed says that the database accepted the row and stored nothing. A rule or a trigger of the application can do that.
var errSwallowed = errors.New("enqueue: the database stored nothing and reported no error: " +
	"look for a rule or a trigger on outbox_messages")
