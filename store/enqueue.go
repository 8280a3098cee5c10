package store

import (
	"context"

	"github.com/outboxmail/outbox"
)

// Enqueue stores messages in a transaction of its own. On an error it stores none. It is for mail that belongs to no data of
// the application, such as a notice that a delivery failed. Use outbox.Enqueue in the transaction that writes such data. A
// message with a Key is stored once, however many processes enqueue it; the others get the receipt of the first, marked as a
// duplicate.
//
// The transaction is open while messages are rendered and attachments are read from [outbox.Attachment].Open. On SQLite other
// writers wait meanwhile, so read slow sources before.
//
// For a message that can never be sent the error is an [*outbox.InvalidError], and nothing was written. After any other error the
// messages may have been stored; repeat the call only with a Key.
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

// begun is the connection of a transaction. On SQLite a statement began the transaction. begun hides the method of the
// connection that would begin another one.
type begun struct{ conn }
