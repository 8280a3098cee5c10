package outbox

import (
	"context"
	"math/bits"
	"strconv"
	"strings"
	"sync"
)

// Every value is bound as text, as an int64, as bytes or as nil: these are what all drivers agree about. A time.Time, for
// one, is stored by modernc's SQLite as its String form.
const (
	insertInto = `INSERT INTO outbox_messages (id, message_id, idempotency_key, route, priority, sender, recipients, ` +
		`subject, size, not_before, expires_at, on_uncertain, tags, metadata, trace_parent, body_key_id, body) VALUES `
	onConflict = ` ON CONFLICT (idempotency_key) DO NOTHING`
	columns    = 17
)

// args appends the values of the row in the order of the columns.
func (d *draft) args(to []any) ([]any, error) {
	recipients, err := toJSON(d.recipients)
	if err != nil {
		return nil, err
	}
	return append(to,
		string(d.id), d.messageID, orNil(d.key), d.route, string(d.priority), d.sender, *recipients,
		d.subject, d.size, deref(d.notBefore), deref(d.expires), string(d.onUncertain),
		deref(d.tags), deref(d.metadata), orNil(d.traceParent), orNil(d.keyID), d.body,
	), nil
}

func orNil(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func deref(s *string) any {
	if s == nil {
		return nil
	}
	return *s
}

// inserts are the statements for 1, 2, 4 … maxRows rows, each made when it is first needed.
var inserts = func() (statements [rowsBits + 1]func() string) {
	for i := range statements {
		statements[i] = sync.OnceValue(func() string { return makeInsert(1 << i) })
	}
	return statements
}()

// insertStatement returns the insert for n rows, n a power of two.
func insertStatement(n int) string { return inserts[bits.Len(uint(n))-1]() }

func makeInsert(rows int) string {
	var b strings.Builder
	b.WriteString(insertInto)
	for row := range rows {
		if row > 0 {
			b.WriteString(", ")
		}
		placeholders(&b, row*columns, columns)
	}
	b.WriteString(onConflict)
	return b.String()
}

// placeholders writes n placeholders in parentheses; the first is $after+1.
func placeholders(b *strings.Builder, after, n int) {
	for i := range n {
		if i == 0 {
			b.WriteString("($")
		} else {
			b.WriteString(", $")
		}
		b.WriteString(strconv.Itoa(after + i + 1))
	}
	b.WriteByte(')')
}

// lookUp returns the receipts of the messages that are stored under the keys, as far as the transaction sees them. A nil
// scanner sees none.
func lookUp(ctx context.Context, s scanner, keys []string) (map[string]Receipt, error) {
	found := make(map[string]Receipt, len(keys))
	if s == nil || len(keys) == 0 {
		return found, nil
	}
	var b strings.Builder
	b.WriteString(`SELECT idempotency_key, CAST(id AS TEXT), message_id FROM outbox_messages WHERE idempotency_key IN `)
	placeholders(&b, 0, len(keys))
	args := make([]any, len(keys))
	for i, key := range keys {
		args[i] = key
	}
	err := s.scan(ctx, func(scan func(...any) error) error {
		var key, id, messageID string
		if err := scan(&key, &id, &messageID); err != nil {
			return err
		}
		found[key] = Receipt{ID: ID(id), MessageID: messageID}
		return nil
	}, b.String(), args...)
	return found, err
}
