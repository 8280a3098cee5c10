package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

// Through names the Outbox through which the store itself enqueues: [Store.Enqueue] and the notices of settlements (see
// [queue.Notice]). Its limits and keys apply to both. A notice quotes the header of its message, so where bodies are encrypted
// at rest, give an Outbox with the keys. Its schema must be that of the store. Defaults to one with the store's schema and
// nothing else.
func Through(o *outbox.Outbox) Option {
	return func(s *Store) error {
		if o == nil {
			return errors.New("no outbox given to enqueue through")
		}
		s.outbox = o
		return nil
	}
}

// EncryptsNotices says whether the store encrypts what it enqueues itself; see [Through].
func (s *Store) EncryptsNotices() bool { return s.outbox.Encrypts() }

// enqueueNotices enqueues the notices of the settlements that took effect. c is their transaction.
func (s *Store) enqueueNotices(ctx context.Context, c conn, notices map[refJSON]*queue.Notice, answers map[refJSON]answer) error {
	for ref, n := range notices {
		if answers[ref] != done {
			continue
		}
		m := &outbox.Message{From: n.From, To: n.To, Raw: n.Raw, EnvelopeFrom: "<>", Route: n.Route}
		if _, err := s.outbox.Enqueue(ctx, outbox.InTx(begun{c}), m); err != nil {
			return fmt.Errorf("enqueue the notice of %s/%d: %w", ref.ID, ref.Seq, err)
		}
	}
	return nil
}
