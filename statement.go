package outbox

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"sync"

	"github.com/outboxmail/outbox/internal/pgschema"
)

// Every value is bound as text, an int64, bytes or nil, because all drivers agree about these. A time.Time is not among them:
// modernc's SQLite stores its String form. %[1]s stands before each table for the schema.
const (
	insertInto = `INSERT INTO %[1]soutbox_messages (id, message_id, idempotency_key, route, priority, sender, recipients, ` +
		`subject, size, not_before, expires_at, on_uncertain, tags, metadata, trace_parent, body_key_id, body) VALUES `
	onConflict = ` ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING`
	columns    = 17

	// The state is the first one that any delivery is in, so that "sent" means all of them.
	selectKeys = `SELECT m.idempotency_key, CAST(m.id AS TEXT), m.message_id, coalesce((SELECT d.state FROM %[1]soutbox_deliveries d ` +
		`WHERE d.message_id = m.id ORDER BY CASE d.state WHEN 'queued' THEN 1 WHEN 'sending' THEN 2 WHEN 'uncertain' THEN 3 WHEN 'held' THEN 4 ` +
		`WHEN 'failed' THEN 5 WHEN 'expired' THEN 6 WHEN 'suppressed' THEN 7 WHEN 'cancelled' THEN 8 ELSE 9 END LIMIT 1), '') ` +
		`FROM %[1]soutbox_messages m WHERE m.idempotency_key IN `
	cancelDeliveries = `UPDATE %[1]soutbox_deliveries SET state = 'cancelled', finished_at = (SELECT now FROM %[1]soutbox_clock) ` +
		`WHERE message_id = $1 AND state IN ('queued', 'held')`
	freeKey = `UPDATE %[1]soutbox_messages SET idempotency_key = NULL WHERE id = $1 AND idempotency_key IS NOT NULL ` +
		`AND NOT EXISTS (SELECT 1 FROM %[1]soutbox_deliveries WHERE message_id = $1 AND state <> 'cancelled')`
	countDeliveries = `SELECT state, count(*) FROM %[1]soutbox_deliveries WHERE message_id = $1 GROUP BY state`
)

// statements are the texts for the tables of one schema.
type statements struct {
	// inserts are for 1, 2, 4 … maxRows rows, each made when it is first needed. The keyed ones pass over a key that is taken. The
	// others need no arbiter, which spares the database a look at the index of keys.
	inserts, keyed               [rowsBits + 1]func() string
	keys, cancel, freeKey, count string
}

// newStatements makes the statements for a schema, or for where the search path leads when its name is empty.
func newStatements(schema string) *statements {
	prefix := ""
	if schema != "" {
		prefix = pgschema.Quote(schema) + "."
	}
	s := &statements{
		keys: fmt.Sprintf(selectKeys, prefix), cancel: fmt.Sprintf(cancelDeliveries, prefix),
		freeKey: fmt.Sprintf(freeKey, prefix), count: fmt.Sprintf(countDeliveries, prefix),
	}
	for i := range s.inserts {
		s.inserts[i] = sync.OnceValue(func() string { return makeInsert(prefix, 1<<i) })
		s.keyed[i] = sync.OnceValue(func() string { return s.inserts[i]() + onConflict })
	}
	return s
}

// insert returns the insert for n rows, n a power of two. Keyed says that at least one of them has a key.
func (s *statements) insert(n int, keyed bool) string {
	i := bits.Len(uint(n)) - 1
	if keyed {
		return s.keyed[i]()
	}
	return s.inserts[i]()
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
