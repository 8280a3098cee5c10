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

// Queryer is where enqueued messages are looked for. The transaction under test (*sql.Tx, *sqlx.Tx) sees its own messages
// before it commits. The database (*sql.DB, *sqlx.DB) sees what is committed, so it also serves an application that uses a
// native pgx transaction.
type Queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// view is a Queryer with what [InSchema] and [WithKeys] add to it.
type view struct {
	Queryer

	schema string
	keys   *keyring.Ring
}

// viewOf adds to what was added before.
func viewOf(db Queryer) view {
	if v, ok := db.(view); ok {
		return v
	}
	return view{Queryer: db}
}

// QueryContext runs a query over the tables in the schema.
func (v view) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return v.Queryer.QueryContext(ctx, pgschema.Qualify(query, v.schema), args...)
}

// InSchema looks into the tables of one PostgreSQL schema: the one that the application names in outbox.Config.Schema. A
// name that cannot be one fails the test at the first look.
func InSchema(db Queryer, name string) Queryer {
	if err := pgschema.Check(name); err != nil {
		return broken{err}
	}
	v := viewOf(db)
	v.schema = name
	return v
}

// broken is a Queryer that fails.
type broken struct{ err error }

// QueryContext returns the error.
func (b broken) QueryContext(context.Context, string, ...any) (*sql.Rows, error) { return nil, b.err }

// WithKeys also opens enqueued messages that are encrypted. The keys are those of outbox.Config.Keys.
//
//	outboxtest.RequireEnqueued(t, outboxtest.WithKeys(tx, keys), outboxtest.Match{To: "ann@example.org"})
func WithKeys(db Queryer, keys *keyring.Ring) Queryer {
	if b, ok := db.(broken); ok {
		return b
	}
	v := viewOf(db)
	v.keys = keys
	return v
}

// RequireEnqueued returns the one enqueued message that fits. It fails the test if none or more than one fits, and then
// says of every message why it does not fit. It sees every message that db sees, also those of earlier transactions and those
// that were sent or cancelled.
func RequireEnqueued(t TB, db Queryer, want Match) *Mail {
	t.Helper()
	return want.one(t, look(t, db, want), "enqueued")
}

// RequireNotEnqueued fails the test if an enqueued message fits. A cancelled message was enqueued, too. To require that a
// message does not wait any more, give the state:
//
//	outboxtest.RequireNotEnqueued(t, tx, outboxtest.Match{Tag: "reminder", State: outbox.StateQueued})
func RequireNotEnqueued(t TB, db Queryer, unwanted Match) {
	t.Helper()
	unwanted.some = true
	list := look(t, db, unwanted)
	if found := unwanted.filter(list); len(found) > 0 {
		t.Fatalf("%s enqueued, want none%s", unwanted.count(found), unwanted.describe(list))
	}
}

// Search returns the enqueued messages that fit, in the order in which they were enqueued.
func Search(t TB, db Queryer, want Match) []*Mail {
	t.Helper()
	return want.filter(look(t, db, want))
}

// look returns all messages, for a match that makes sense.
func look(t TB, db Queryer, m Match) []*Mail {
	t.Helper()
	if err := checkState(m.State); err != nil {
		t.Fatalf("Match.State: %v", err)
		return nil
	}
	return Enqueued(t, db)
}

// Enqueued returns every enqueued message, whatever became of it, in the order in which they were enqueued. A message whose body was
// scrubbed shows its envelope, and so does an encrypted message without its keys (see [WithKeys]). Subject and Metadata are
// then shown if they are stored in clear.
func Enqueued(t TB, db Queryer) []*Mail {
	t.Helper()
	list, err := enqueued(t.Context(), db)
	if err != nil {
		t.Fatalf("look for enqueued messages: %v", err)
	}
	return list
}

const selectMessages = `SELECT CAST(id AS TEXT), COALESCE(idempotency_key, ''), route, priority, sender, CAST(recipients AS TEXT), ` +
	`subject, not_before, expires_at, on_uncertain, COALESCE(CAST(tags AS TEXT), 'null'), COALESCE(CAST(metadata AS TEXT), 'null'), ` +
	`COALESCE(body_key_id, ''), body FROM outbox_messages ORDER BY id`

func enqueued(ctx context.Context, db Queryer) ([]*Mail, error) {
	list, err := messages(ctx, db)
	if err != nil {
		return nil, err
	}
	return list, addDeliveries(ctx, db, list)
}

// messages reads all messages without their deliveries.
func messages(ctx context.Context, db Queryer) (list []*Mail, err error) {
	rows, err := db.QueryContext(ctx, selectMessages)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var keys *keyring.Ring
	if v, ok := db.(view); ok {
		keys = v.keys
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

// open decrypts subject and metadata in place and returns the decrypted body. Without keys it leaves out the encrypted fields.
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

// timeOf reads a time as PostgreSQL returns it or as SQLite stores it. NULL is the zero time.
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
