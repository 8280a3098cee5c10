// Package exit holds the exit codes of outboxctl and the errors that carry them.
package exit

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
)

// The exit codes. Scripts rely on them: a code never changes its meaning.
const (
	OK          = 0
	Failed      = 1
	Usage       = 2 // the command line or the described message is invalid; nothing was done
	Database    = 3 // the database cannot be reached, or its tables have another version than this program
	NoMatch     = 4 // nothing matched, and --exit-status was given
	Partial     = 5 // part of the work was done
	Interrupted = 130
)

// Error is an error with a hint for the user and an exit code.
type Error struct {
	// Err is the cause. If it is nil, the program exits with Code and prints nothing.
	Err error
	// Hint is one sentence or command that may help. Defaults to the hint that [Explain] finds for Err.
	Hint string
	// Code is the exit code. Defaults to the code that [Explain] finds for Err.
	Code int
}

// Error returns the text of the cause, or an empty string if there is none.
func (e *Error) Error() string {
	if e.Err == nil {
		return ""
	}
	return e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Usagef returns an error of the command line, with the code [Usage]. The hint may be empty.
func Usagef(hint, format string, args ...any) error {
	return &Error{Err: fmt.Errorf(format, args...), Hint: hint, Code: Usage}
}

// Silent returns an error that sets the exit code and prints nothing.
func Silent(code int) error { return &Error{Code: code} }

// Explain returns the sentence and the hint to show for err, and the exit code. It knows the errors of the library, and a
// command can return them unchanged.
func Explain(err error) (sentence, hint string, code int) {
	if err == nil {
		return "", "", OK
	}
	sentence, hint, code = known(err)
	if own, ok := errors.AsType[*Error](err); ok {
		if own.Hint != "" {
			hint = own.Hint
		}
		if own.Code != 0 {
			code = own.Code
		}
	}
	return sentence, hint, code
}

// known explains the errors of the library.
func known(err error) (sentence, hint string, code int) {
	var (
		version   *schema.VersionError
		checksum  *schema.ChecksumError
		foreign   *schema.ForeignFileError
		invalid   *outbox.InvalidError
		ambiguous *store.AmbiguousError
	)
	switch {
	case errors.Is(err, context.Canceled):
		return "interrupted", "", Interrupted
	case errors.As(err, &version):
		return versionSentence(version)
	case errors.Is(err, outbox.ErrNotMigrated):
		return "the database has no outbox tables, or outdated ones", "run `outboxctl migrate up`", Database
	case errors.As(err, &checksum):
		return fmt.Sprintf("migration %d in the database differs from this program's", checksum.Version),
			"compare the tables with `outboxctl migrate sql`, mend the difference, then set the checksum in outbox_migrations", Database
	case errors.As(err, &foreign):
		mark := fmt.Sprintf("%#x", uint32(foreign.Have))
		return "the SQLite file is marked as another application's (application_id " + mark + ")",
			"check --db or OUTBOX_DB; if it is the right file, run `outboxctl migrate up --application-id " + mark + "`", Database
	case errors.As(err, &invalid):
		return err.Error(), "", Usage
	case errors.As(err, &ambiguous):
		return ambiguousSentence(ambiguous), "give more digits, or the whole id", Failed
	case errors.Is(err, store.ErrNotFound):
		return err.Error(), "`outboxctl list` shows the ids that there are", Failed
	case unreachable(err):
		return err.Error(), "", Database
	default:
		return err.Error(), "", Failed
	}
}

func versionSentence(e *schema.VersionError) (sentence, hint string, code int) {
	where, migrate := "the database", "run `outboxctl migrate up`"
	if e.Schema != "" {
		where = fmt.Sprintf("the schema %q", e.Schema)
		migrate = "run `outboxctl migrate up --schema '" + strings.ReplaceAll(e.Schema, "'", `'\''`) + "'`"
	}
	switch {
	case e.Have == 0:
		return where + " has no outbox tables", migrate, Database
	case e.Have < e.Want:
		return fmt.Sprintf("%s is at outbox schema version %d, this program needs %d", where, e.Have, e.Want), migrate, Database
	default:
		return fmt.Sprintf("%s is at outbox schema version %d, this program knows only %d", where, e.Have, e.Want),
			"use a newer outboxctl", Database
	}
}

func ambiguousSentence(e *store.AmbiguousError) string {
	ids := make([]string, len(e.Candidates))
	for i, id := range e.Candidates {
		ids[i] = string(id)
	}
	return fmt.Sprintf("%q stands for more than one message: %s", e.Name, strings.Join(ids, ", "))
}

// unreachable reports whether the connection to the database was lost. A network error cannot come from a relay, because
// the errors of relays are recorded with the delivery.
func unreachable(err error) bool {
	_, network := errors.AsType[*net.OpError](err)
	return network || errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.ErrUnexpectedEOF)
}
