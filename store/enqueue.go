package store

import (
	"bytes"
	"context"

	"github.com/outboxmail/outbox"
)

// Enqueue stores messages in a transaction of its own: all of them or, on an error, none. It is for mail that belongs to no
// data of the application, such as a notice that a delivery failed; everything else is enqueued with outbox.Enqueue where the
// application writes its data. With a Key a message is stored once, however many processes enqueue it: the others get the
// receipt of the first, which says that it is a duplicate.
//
// A message that can never be sent is an [*outbox.InvalidError], and nothing was written. After any other error the messages
// may have been stored all the same; only with a Key can the call be repeated safely.
func (s *Store) Enqueue(ctx context.Context, msgs ...*outbox.Message) ([]outbox.Receipt, error) {
	if len(msgs) == 0 {
		return nil, nil
	}
	var receipts []outbox.Receipt
	err := s.atomically(ctx, func(c conn) (err error) {
		receipts, err = s.notices.EnqueueMany(ctx, outbox.InTx(c), msgs)
		return err
	})
	if err != nil {
		return nil, s.failed(ctx, err, "enqueue")
	}
	return receipts, nil
}

// headerChunk is how much of a message [Store.Header] reads at first, enough for the header of nearly every message.
const headerChunk = 64 << 10

// Header returns the header of the rendered message, with the empty line that ends it, without reading a large body. It is
// [ErrNotFound] when there is no such message and [ErrNoBody] when its body was scrubbed.
func (s *Store) Header(ctx context.Context, id outbox.ID) ([]byte, error) {
	header, err := s.header(ctx, id)
	if err != nil {
		return nil, s.failed(ctx, err, "read the header of %s", id)
	}
	return header, nil
}

func (s *Store) header(ctx context.Context, id outbox.ID) ([]byte, error) {
	canonical, err := outbox.ParseID(string(id))
	if err != nil {
		return nil, err
	}
	for n := headerChunk; ; n *= 4 {
		starts, err := collect[[]byte](ctx, s.db, s.queries.get("body_start"), string(canonical), n)
		switch {
		case err != nil:
			return nil, err
		case len(starts) == 0:
			return nil, ErrNotFound
		case starts[0] == nil:
			return nil, ErrNoBody
		}
		if before, _, found := bytes.Cut(starts[0], []byte("\r\n\r\n")); found {
			return starts[0][:len(before)+4], nil
		}
		if len(starts[0]) < n { // it is all header
			return starts[0], nil
		}
	}
}
