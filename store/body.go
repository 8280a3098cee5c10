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
	// bodyPart is the size in bytes of the parts in which a body is read. A driver holds up to four copies of a value; they are
	// copies of a part then, and not of a whole body.
	bodyPart = 4 << 20
	// bodySpare is the room in bytes behind a body. A dispatcher adds header fields there without copying the body.
	bodySpare = 8 << 10
)

// Body returns the rendered message, or its sealed form. The error is [ErrNotFound] if there is no such message, and
// [queue.ErrNoBody] if its body was scrubbed. A large body is read in parts by one statement, and is in memory once. The caller
// owns the bytes and a capacity of 8 KiB behind them.
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
