package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/sqlstate"
	"github.com/outboxmail/outbox/schema"
)

// ErrNotFound says that no message has the given name. Nothing was changed.
var ErrNotFound = errors.New("no such message")

// ErrReadOnly says that the database server only reads: it is a standby, or it was told so by default_transaction_read_only. The call
// changed nothing. The sessions of the pool were dropped, so the next call reaches the primary if the host name or the proxy leads to it.
var ErrReadOnly = errors.New("the database server only reads: it is a standby, or default_transaction_read_only is on")

// AmbiguousError says that a shortened name stands for more than one message.
type AmbiguousError struct {
	// Name is the given name. Candidates are some of the messages that it stands for.
	Name       string
	Candidates []outbox.ID
}

// Error names the candidates.
func (e *AmbiguousError) Error() string {
	names := make([]string, len(e.Candidates))
	for i, id := range e.Candidates {
		names[i] = string(id)
	}
	return fmt.Sprintf("%q stands for more than one message: %s …", e.Name, strings.Join(names, ", "))
}

// explainTimeout bounds the check of the schema in [Store.failed].
const explainTimeout = 5 * time.Second

// failed wraps the error of a statement with its verb. If a table or a column is missing, the error also wraps a
// [*schema.VersionError] or [*schema.ChecksumError] that says what to run. If the server only reads, the error also wraps
// [ErrReadOnly]. If the session cannot write any more, the idle sessions of the pool are closed: they belong to the same server.
func (s *Store) failed(ctx context.Context, err error, format string, args ...any) error {
	verb := fmt.Sprintf(format, args...)
	if outdated(err) {
		s.closeIdle(ctx)
	}
	if readOnly(err) {
		return fmt.Errorf("%s: %w: %w", verb, ErrReadOnly, err)
	}
	if !unknownTable(err) {
		return fmt.Errorf("%s: %w", verb, err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), explainTimeout)
	defer cancel()
	var (
		version  *schema.VersionError
		checksum *schema.ChecksumError
	)
	if cause := s.Check(ctx); errors.As(cause, &version) || errors.As(cause, &checksum) {
		return fmt.Errorf("%s: %w (%w)", verb, cause, err)
	}
	return fmt.Errorf("%s: %w", verb, err)
}

// unknownTable reports whether a statement failed because the tables are missing or of another version. SQLite has no code
// for that, only words.
func unknownTable(err error) bool {
	if state := sqlstate.Of(err); state != "" {
		return state == sqlstate.UndefinedTable || state == sqlstate.UndefinedColumn
	}
	text := err.Error()
	return strings.Contains(text, "no such table") || strings.Contains(text, "no such column") || strings.Contains(text, "has no column")
}
