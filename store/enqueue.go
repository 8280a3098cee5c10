package store

import (
	"context"

	"github.com/outboxmail/outbox"
)

// Enqueue stores messages in a transaction of its own: all of them or, on an error, none. It is for mail that belongs to no
// data of the application, such as a notice that a delivery failed; everything else is enqueued with outbox.Enqueue where the
// application writes its data. With a Key a message is stored once, however many processes enqueue it: the others get the
// receipt of the first, which says that it is a duplicate.
//
// Messages are rendered, and what [outbox.Attachment].Open returns is read, while the transaction is open, which on SQLite keeps
// other writers waiting: slow sources should be read before.
//
// A message that can never be sent is an [*outbox.InvalidError], and nothing was written. After any other error the messages
// may have been stored all the same; only with a Key can the call be repeated safely.
func (s *Store) Enqueue(ctx context.Context, msgs ...*outbox.Message) ([]outbox.Receipt, error) {
	if len(msgs) == 0 {
		return nil, nil
	}
	var receipts []outbox.Receipt
	err := s.atomically(ctx, func(c conn) (err error) {
		receipts, err = s.outbox.EnqueueMany(ctx, outbox.InTx(begun{c}), msgs)
		return err
	})
	if err != nil {
		return nil, s.failed(ctx, err, "enqueue")
	}
	return receipts, nil
}

// begun is what a transaction runs on. It hides that a connection of SQLite, on which a statement began the transaction, could
// begin another.
type begun struct{ conn }
