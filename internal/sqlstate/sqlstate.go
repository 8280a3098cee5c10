// Package sqlstate reads the SQLSTATE of an error of PostgreSQL, whichever driver reported it.
package sqlstate

import "errors"

// The SQLSTATEs that this module tells apart (PostgreSQL, Appendix A).
const (
	ReadOnlyTransaction  = "25006"
	UndefinedTable       = "42P01"
	UndefinedColumn      = "42703"
	UndefinedParameter   = "42P02"
	SerializationFailure = "40001"
	DeadlockDetected     = "40P01"
	LockNotAvailable     = "55P03"
	QueryCanceled        = "57014"
	// FeatureNotSupported has several causes: the server is a standby, or a kept plan is of an older schema.
	FeatureNotSupported = "0A000"
	// CharacterNotInRepertoire and UntranslatableCharacter say that the encoding of the database lacks a character.
	CharacterNotInRepertoire = "22021"
	UntranslatableCharacter  = "22P05"
	AdminShutdown            = "57P01"
	CrashShutdown            = "57P02"
	CannotConnectNow         = "57P03"
)

// Of returns the SQLSTATE of an error, or "" if it has none. lib/pq and pgx give it by a method of the same name.
func Of(err error) string {
	var coded interface{ SQLState() string }
	if errors.As(err, &coded) {
		return coded.SQLState()
	}
	return ""
}
