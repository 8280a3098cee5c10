package outboxtest

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/outboxmail/outbox/internal/pgschema"
	"github.com/outboxmail/outbox/keyring"
)

// Queryer is where enqueued messages are looked for: the transaction under test (*sql.Tx, *sqlx.Tx), which sees its own
// before it commits, or the database (*sql.DB, *sqlx.DB). For a native pgx transaction look after it has committed.
type Queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// InSchema looks for enqueued messages in the tables of a schema of PostgreSQL, where the application names one in the Config of
// package outbox.
func InSchema(tx Queryer, name string) Queryer { return inSchema{tx, name} }

// inSchema is what InSchema returns.
type inSchema struct {
	Queryer
	schema string
}

// QueryContext puts the tables that the query names into the schema.
func (q inSchema) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := pgschema.Check(q.schema); err != nil {
		return nil, err
	}
	return q.Queryer.QueryContext(ctx, pgschema.Qualify(query, q.schema), args...)
}

// RequireEnqueued returns the one enqueued message that fits. It fails the test when there is none or more than one, and
// says then of every message why it does not fit. It sees all messages that the transaction sees, those of earlier
// transactions too.
func RequireEnqueued(t TB, tx Queryer, want Match) *Mail {
	t.Helper()
	return want.one(t, Enqueued(t, tx), "enqueued")
}

// RequireNotEnqueued fails the test when an enqueued message fits.
func RequireNotEnqueued(t TB, tx Queryer, unwanted Match) {
	t.Helper()
	list := Enqueued(t, tx)
	if found := unwanted.filter(list); len(found) > 0 {
		t.Fatalf("%d messages of this kind were enqueued, want none%s", len(found), unwanted.describe(list))
	}
}

// WithKeys looks through tx for enqueued messages and opens those that are encrypted with the keys.
//
//	outboxtest.RequireEnqueued(t, outboxtest.WithKeys(tx, keys), outboxtest.Match{To: "ann@example.org"})
func WithKeys(tx Queryer, keys *keyring.Ring) Queryer { return keyed{tx, keys} }

// keyed is a Queryer that brings its keys.
type keyed struct {
	Queryer

	keys *keyring.Ring
}

// Enqueued returns all enqueued messages, whatever became of them, in the order in which they were enqueued. Of one whose
// body was scrubbed, or is encrypted (see [WithKeys]), only the envelope is known and what of the subject and the metadata
// is not encrypted.
func Enqueued(t TB, tx Queryer) []*Mail {
	t.Helper()
	list, err := enqueued(t.Context(), tx)
	if err != nil {
		t.Fatalf("look for enqueued messages: %v", err)
	}
	return list
}

const selectMessages = `SELECT CAST(id AS TEXT), COALESCE(idempotency_key, ''), route, priority, sender, CAST(recipients AS TEXT), ` +
	`subject, not_before, expires_at, on_uncertain, COALESCE(CAST(tags AS TEXT), 'null'), COALESCE(CAST(metadata AS TEXT), 'null'), ` +
	`COALESCE(body_key_id, ''), body FROM outbox_messages ORDER BY id`

func enqueued(ctx context.Context, tx Queryer) (list []*Mail, err error) {
	rows, err := tx.QueryContext(ctx, selectMessages)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var keys *keyring.Ring
	if k, ok := tx.(keyed); ok {
		keys = k.keys
	}
	for rows.Next() {
		m, err := scan(rows, keys)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, rows.Err()
}

// scan reads one row.
func scan(rows *sql.Rows, keys *keyring.Ring) (*Mail, error) {
	var (
		stored                     Mail
		recipients, tags, metadata string
		keyID                      string
		notBefore, expires         any
		body                       []byte
	)
	err := rows.Scan(&stored.ID, &stored.Key, &stored.Route, &stored.Priority, &stored.Sender, &recipients, &stored.Subject,
		&notBefore, &expires, &stored.OnUncertain, &tags, &metadata, &keyID, &body)
	if err != nil {
		return nil, err
	}
	for _, value := range []struct {
		text string
		to   any
	}{{recipients, &stored.Recipients}, {tags, &stored.Tags}, {metadata, &stored.Metadata}} {
		if err := json.Unmarshal([]byte(value.text), value.to); err != nil {
			return nil, fmt.Errorf("message %s: %w", stored.ID, err)
		}
	}
	if stored.NotBefore, err = timeOf(notBefore); err != nil {
		return nil, err
	}
	if stored.Expires, err = timeOf(expires); err != nil {
		return nil, err
	}
	if keyID != "" {
		if body, err = open(keys, &stored, body); err != nil {
			return nil, fmt.Errorf("message %s: %w", stored.ID, err)
		}
	}
	if body == nil {
		return &stored, nil
	}
	m, err := parse(body, stored.Sender, stored.Recipients)
	if err != nil {
		return nil, fmt.Errorf("message %s: %w", stored.ID, err)
	}
	m.ID, m.Key, m.Route, m.Priority, m.OnUncertain = stored.ID, stored.Key, stored.Route, stored.Priority, stored.OnUncertain
	m.NotBefore, m.Expires, m.Tags, m.Metadata = stored.NotBefore, stored.Expires, stored.Tags, stored.Metadata
	return m, nil
}

// open opens what of a message is encrypted, and returns its body. Without keys, what is encrypted is left out.
func open(keys *keyring.Ring, m *Mail, body []byte) ([]byte, error) {
	if keys == nil {
		if keyring.IsSealedSubject(m.Subject) {
			m.Subject = ""
		}
		if keyring.IsSealedMetadata(m.Metadata) {
			m.Metadata = nil
		}
		if keyring.IsSealed(body) {
			body = nil
		}
		return body, nil
	}
	var err error
	if m.Subject, err = keys.OpenSubject(string(m.ID), m.Subject); err != nil {
		return nil, err
	}
	if m.Metadata, err = keys.OpenMetadata(string(m.ID), m.Metadata); err != nil {
		return nil, err
	}
	return keys.OpenBody(string(m.ID), body)
}

// timeOf reads a time as PostgreSQL gives it, or as SQLite stores it. Nothing is the zero time.
func timeOf(v any) (time.Time, error) {
	switch v := v.(type) {
	case nil:
		return time.Time{}, nil
	case time.Time:
		return v.UTC(), nil
	case string:
		return time.Parse(time.RFC3339, v)
	case []byte:
		return time.Parse(time.RFC3339, string(v))
	default:
		return time.Time{}, fmt.Errorf("the database gives a time as %T", v)
	}
}
