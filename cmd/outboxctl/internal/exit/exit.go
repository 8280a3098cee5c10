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

// The codes. They are a contract with scripts: none changes its meaning.
const (
	OK          = 0
	Failed      = 1
	Usage       = 2 // the command line, or the message that it describes, is wrong; nothing was done
	Database    = 3 // the database cannot be reached, or its schema is not the one that this program knows
	NoMatch     = 4 // nothing matched, and --exit-status asked to be told
	Partial     = 5 // part of the work was done
	Interrupted = 130
)

// Error is an error with what the user can do about it.
type Error struct {
	// Err is the cause. Without one the code alone is handed on, and nothing is said.
	Err error
	// Hint is what to do, one sentence or command, empty for none.
	Hint string
	// Code is the exit code. Defaults to the one that [Code] finds for Err.
	Code int
}

// Error returns the words of the cause.
func (e *Error) Error() string {
	if e.Err == nil {
		return ""
	}
	return e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Usagef is an error of the command line.
func Usagef(hint, format string, args ...any) error {
	return &Error{Err: fmt.Errorf(format, args...), Hint: hint, Code: Usage}
}

// Silent ends the program with a code and without a word.
func Silent(code int) error { return &Error{Code: code} }

// Explain returns err as what is to be shown: the sentence, the hint and the code. It knows the errors of the library, so
// that a command that meets one returns it as it is.
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

// known explains the errors of the packages below.
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

// unreachable says whether err is the loss of the connection to the database. Errors of relays never get here as they are:
// they are recorded with the delivery.
func unreachable(err error) bool {
	_, network := errors.AsType[*net.OpError](err)
	return network || errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.ErrUnexpectedEOF)
}
