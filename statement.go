package outbox

import (
	"context"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Every value is bound as text, as an int64, as bytes or as nil: these are what all drivers agree about. A time.Time, for
// one, is stored by modernc's SQLite as its String form. The names of tables stand behind %[1]s, for the schema.
const (
	insertInto = `INSERT INTO %[1]soutbox_messages (id, message_id, idempotency_key, route, priority, sender, recipients, ` +
		`subject, size, not_before, expires_at, on_uncertain, tags, metadata, trace_parent, body_key_id, body) VALUES `
	onConflict = ` ON CONFLICT (idempotency_key) DO NOTHING`
	columns    = 17

	selectKeys       = `SELECT idempotency_key, CAST(id AS TEXT), message_id FROM %[1]soutbox_messages WHERE idempotency_key IN `
	cancelDeliveries = `UPDATE %[1]soutbox_deliveries SET state = 'cancelled', finished_at = (SELECT now FROM %[1]soutbox_clock) ` +
		`WHERE message_id = $1 AND state IN ('queued', 'held')`
	countDeliveries = `SELECT state, count(*) FROM %[1]soutbox_deliveries WHERE message_id = $1 GROUP BY state`
)

// statements are the texts for the tables of one schema.
type statements struct {
	// inserts are for 1, 2, 4 … maxRows rows, each made when it is first needed.
	inserts             [rowsBits + 1]func() string
	keys, cancel, count string
}

// newStatements makes the statements for a schema, or for where the search path leads when its name is empty.
func newStatements(schema string) *statements {
	prefix := ""
	if schema != "" {
		prefix = quoteName(schema) + "."
	}
	s := &statements{
		keys: fmt.Sprintf(selectKeys, prefix), cancel: fmt.Sprintf(cancelDeliveries, prefix), count: fmt.Sprintf(countDeliveries, prefix),
	}
	for i := range s.inserts {
		s.inserts[i] = sync.OnceValue(func() string { return makeInsert(prefix, 1<<i) })
	}
	return s
}

// insert returns the insert for n rows, n a power of two.
func (s *statements) insert(n int) string { return s.inserts[bits.Len(uint(n))-1]() }

// quoteName returns a name as it stands in SQL.
func quoteName(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// checkSchema says why a name cannot be that of a schema of PostgreSQL, which keeps the first 63 bytes of a longer one.
func checkSchema(name string) error {
	const most = 63
	switch {
	case len(name) > most:
		return fmt.Errorf("the name of a schema has at most %d bytes, this one has %d", most, len(name))
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("%s is not text on one line", quote(name))
	case strings.Contains(name, "$$"):
		return fmt.Errorf("%s has two dollar signs in a row", quote(name))
	case strings.HasPrefix(name, "pg_"), name == "information_schema":
		return fmt.Errorf("the schema %s belongs to PostgreSQL", name)
	default:
		return nil
	}
}

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

func makeInsert(prefix string, rows int) string {
	var b strings.Builder
	fmt.Fprintf(&b, insertInto, prefix)
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
func (o *Outbox) lookUp(ctx context.Context, s scanner, keys []string) (map[string]Receipt, error) {
	found := make(map[string]Receipt, len(keys))
	if s == nil || len(keys) == 0 {
		return found, nil
	}
	var b strings.Builder
	b.WriteString(o.statements.keys)
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
