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

// ErrNotFound says that no message has the name that was given.
var ErrNotFound = errors.New("no such message")

// AmbiguousError says that a shortened name stands for more than one message.
type AmbiguousError struct {
	// Name is what was given, and Candidates some of the messages that it may mean.
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

// explainTimeout bounds the question that [Store.failed] asks.
const explainTimeout = 5 * time.Second

// failed wraps what a statement said with the verb that it belongs to. When the statement failed for want of a table or a
// column, the error also wraps a [*schema.VersionError] or [*schema.ChecksumError] that says what to run.
func (s *Store) failed(ctx context.Context, err error, format string, args ...any) error {
	verb := fmt.Sprintf(format, args...)
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

// unknownTable says whether a statement failed because the tables are missing or of another version. SQLite has no code
// for that, only words.
func unknownTable(err error) bool {
	if state := sqlstate.Of(err); state != "" {
		return state == sqlstate.UndefinedTable || state == sqlstate.UndefinedColumn
	}
	text := err.Error()
	return strings.Contains(text, "no such table") || strings.Contains(text, "no such column") || strings.Contains(text, "has no column")
}

// clean makes text from outside storable everywhere: PostgreSQL takes neither NUL nor what is not UTF-8.
func clean(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}
