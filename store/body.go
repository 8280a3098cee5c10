package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

const (
	// bodyPart is how much of a body is read at a time. Drivers hold what they hand over up to four times, lib/pq as
	// hexadecimal text among others: so that is four times a part, and not four times a body.
	bodyPart = 4 << 20
	// bodySpare is room for what a dispatcher adds to a message, so that it need not copy it.
	bodySpare = 8 << 10
)

// Body returns the rendered message, or what it was sealed to. It is [ErrNotFound] when there is no such message and [queue.ErrNoBody]
// when its body was scrubbed. A large body is read in parts by one statement, and is in memory once. The bytes are the
// caller's, and so is a capacity of 8 KiB behind them for header fields.
func (s *Store) Body(ctx context.Context, id outbox.ID) ([]byte, error) {
	body, err := s.body(ctx, id)
	if err != nil {
		return nil, s.failed(ctx, err, "read the body of %s", id)
	}
	return body, nil
}

func (s *Store) body(ctx context.Context, id outbox.ID) (body []byte, err error) {
	canonical, err := outbox.ParseID(string(id))
	if err != nil {
		return nil, err
	}
	rows, err := s.db.QueryContext(ctx, s.queries.get("body"), string(canonical), bodyPart)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	got := -1 // bytes; the parts may come in any order
	for rows.Next() {
		var size sql.NullInt64
		var at int
		var part sql.RawBytes // valid until the next row, and not copied
		if err := rows.Scan(&size, &at, &part); err != nil {
			return nil, err
		}
		if !size.Valid {
			return nil, queue.ErrNoBody
		}
		if got < 0 {
			body, got = make([]byte, size.Int64, size.Int64+bodySpare), 0
		}
		got += copy(body[min(at, len(body)):], part)
	}
	switch {
	case rows.Err() != nil:
		return nil, rows.Err()
	case got < 0:
		return nil, ErrNotFound
	case got != len(body):
		return nil, fmt.Errorf("%d of %d bytes came", got, len(body))
	}
	return body, nil
}
