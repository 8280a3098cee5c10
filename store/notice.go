package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/outboxmail/outbox"
)

// Notices names the Outbox through which the store itself enqueues: the notices of settlements (see outbox.Settlement) and what
// [Store.Enqueue] is given. It has limits and keys; where bodies are encrypted at rest, give one with the keys, for a notice
// quotes the header of its message. Its tables must be those of the store. Defaults to one with the store's schema and nothing
// else.
func Notices(o *outbox.Outbox) Option {
	return func(s *Store) error {
		if o == nil {
			return errors.New("no outbox given for notices")
		}
		s.notices = o
		return nil
	}
}

// SealsNotices says whether what the store itself enqueues is encrypted at rest; see [Notices].
func (s *Store) SealsNotices() bool { return s.notices.Encrypts() }

// enqueueNotices enqueues the notices of the settlements that took effect; c is their transaction.
func (s *Store) enqueueNotices(ctx context.Context, c conn, notices map[refJSON]*outbox.Message, done map[refJSON]bool) error {
	for ref, m := range notices {
		if !done[ref] {
			continue
		}
		if _, err := s.notices.Enqueue(ctx, outbox.InTx(c), m); err != nil {
			return fmt.Errorf("enqueue the notice of %s/%d: %w", ref.ID, ref.Seq, err)
		}
	}
	return nil
}
