package outbox_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/mail"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/schema"
)

func TestMessageCommitsWithTheTransaction(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		d.exec(t, `CREATE TABLE orders (id INTEGER PRIMARY KEY)`)
		place := func(id int, end func(transaction) error) {
			tx := d.begin(t)
			if _, err := tx.ExecContext(t.Context(), `INSERT INTO orders (id) VALUES ($1)`, id); err != nil {
				t.Fatal(err)
			}
			enqueue(t, tx.Tx, message(fmt.Sprint("order-", id)))
			if err := end(tx); err != nil {
				t.Fatal(err)
			}
		}
		place(1, func(tx transaction) error { return tx.commit() })
		place(2, func(tx transaction) error { return tx.rollback() })
		for _, table := range []string{"orders", "outbox_messages", "outbox_deliveries"} {
			if n := d.count(t, `SELECT count(*) FROM `+table); n != 1 {
				t.Errorf("%s has %d rows, want 1", table, n)
			}
		}
		if n := d.count(t, `SELECT count(*) FROM outbox_messages WHERE idempotency_key = 'order-1'`); n != 1 {
			t.Error("the message that was committed is not there")
		}
	})
}

func TestStoredMessage(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		box, err := outbox.New(outbox.Config{TraceParent: func(context.Context) string { return trace }})
		if err != nil {
			t.Fatal(err)
		}
		m := message("key 1 — ключ")
		m.Subject = "Größe 名"
		m.Cc = []outbox.Address{{Address: "Bob@Example.org"}}
		m.Bcc = []outbox.Address{{Address: "eve@example.org"}, {Address: "ann@EXAMPLE.org"}}
		m.EnvelopeFrom = "<>"
		m.Route, m.Priority, m.OnUncertain = "bulk-1", outbox.Bulk, outbox.Hold
		m.NotBefore = time.Now().Add(time.Hour)
		m.Expires = m.NotBefore.Add(time.Hour)
		m.Tags, m.Metadata = []string{"a", "<b>"}, map[string]string{"k": `v "1"`}
		m.Attachments = []outbox.Attachment{{Name: "x.bin", Data: bytes.Repeat([]byte{0, 0xff, '\\', '\''}, 1<<18)}}
		var r outbox.Receipt
		d.within(t, func(tx outbox.Tx) {
			if r, err = box.Enqueue(t.Context(), tx, m); err != nil {
				t.Fatal(err)
			}
		})
		checkStoredMessage(t, d, m, r, trace)

		var recipients []string
		rows, err := d.db.QueryContext(t.Context(), `SELECT seq, recipient, route, priority, state FROM outbox_deliveries ORDER BY seq`)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var seq int
			var recipient, route, priority, state string
			if err := rows.Scan(&seq, &recipient, &route, &priority, &state); err != nil {
				t.Fatal(err)
			}
			recipients = append(recipients, recipient)
			if seq != len(recipients) || route != "bulk-1" || priority != "bulk" || state != "queued" {
				t.Errorf("delivery %d: seq %d, route %s, priority %s, state %s", len(recipients), seq, route, priority, state)
			}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		if want := []string{"ann@example.org", "Bob@example.org", "eve@example.org"}; !slices.Equal(recipients, want) {
			t.Errorf("deliveries to %q, want %q", recipients, want)
		}
		// Each time is stored as a time of this database, not as some text.
		compare := `SELECT count(*) FROM outbox_messages WHERE not_before > created_at AND expires_at > not_before`
		if d.count(t, compare) != 1 {
			t.Error("the times do not compare")
		}
		if n := d.count(t, `SELECT count(*) FROM outbox_deliveries, outbox_clock WHERE due_at > now`); n != 3 {
			t.Errorf("%d of 3 deliveries are due later", n)
		}
	})
}

// checkStoredMessage compares the row of a message with what was enqueued.
func checkStoredMessage(t *testing.T, d *database, m *outbox.Message, r outbox.Receipt, trace string) {
	t.Helper()
	var row struct {
		messageID, key, sender, subject, onUncertain, tags, metadata, trace string
		size                                                                int
		body                                                                []byte
	}
	err := d.db.QueryRowContext(t.Context(), `SELECT message_id, idempotency_key, sender, subject, on_uncertain,
		CAST(tags AS TEXT), CAST(metadata AS TEXT), trace_parent, size, body FROM outbox_messages WHERE id = $1`, string(r.ID)).
		Scan(&row.messageID, &row.key, &row.sender, &row.subject, &row.onUncertain, &row.tags, &row.metadata, &row.trace, &row.size, &row.body)
	if err != nil {
		t.Fatal(err)
	}
	if row.messageID != r.MessageID || row.key != m.Key || row.sender != "" || row.subject != m.Subject ||
		row.onUncertain != "hold" || row.trace != trace {
		t.Errorf("stored %+v", row)
	}
	if strings.ReplaceAll(row.tags, " ", "") != `["a","\u003cb\u003e"]` && row.tags != `["a", "<b>"]` {
		t.Errorf("tags %s", row.tags)
	}
	if strings.ReplaceAll(row.metadata, `": "`, `":"`) != `{"k":"v \"1\""}` {
		t.Errorf("metadata %s", row.metadata)
	}
	if row.size != len(row.body) || row.size < 1<<20 {
		t.Errorf("size %d, body of %d bytes", row.size, len(row.body))
	}
	parsed, err := mail.ReadMessage(bytes.NewReader(row.body))
	if err != nil {
		t.Fatal(err)
	}
	if got := parsed.Header.Get("Message-Id"); got != r.MessageID {
		t.Errorf("the body has the Message-ID %q, the receipt %q", got, r.MessageID)
	}
	if date, err := parsed.Header.Date(); err != nil || !date.Equal(m.NotBefore.Truncate(time.Second)) {
		t.Errorf("the body has the date %v (%v), want %v", date, err, m.NotBefore)
	}
}

// counting counts what is run in a transaction.
type counting struct {
	*sql.Tx
	execs, queries int
}

func (c *counting) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	c.execs++
	return c.Tx.ExecContext(ctx, query, args...)
}

func (c *counting) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	c.queries++
	return c.Tx.QueryContext(ctx, query, args...)
}

func TestNumberOfStatements(t *testing.T) {
	d := openSQLite(t)
	if err := schema.Migrate(t.Context(), d.db, d.dialect); err != nil {
		t.Fatal(err)
	}
	tx, err := d.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	many := make([]*outbox.Message, 1000)
	for i := range many {
		many[i] = message("")
	}
	invalid := message("")
	invalid.To = nil
	for _, step := range []struct {
		name           string
		run            func(tx outbox.Tx) error
		execs, queries int
	}{
		{"a new message", func(tx outbox.Tx) error { _, err := outbox.Enqueue(t.Context(), tx, message("k")); return err }, 1, 0},
		{"a duplicate", func(tx outbox.Tx) error { _, err := outbox.Enqueue(t.Context(), tx, message("k")); return err }, 1, 1},
		{"an invalid message", func(tx outbox.Tx) error {
			if _, err := outbox.Enqueue(t.Context(), tx, invalid); err == nil {
				return errors.New("is accepted")
			}
			return nil
		}, 0, 0},
		{"none", func(tx outbox.Tx) error { _, err := outbox.EnqueueMany(t.Context(), tx, nil); return err }, 0, 0},
		// 31 of 32 rows and one of 8.
		{"1000 messages", func(tx outbox.Tx) error { _, err := outbox.EnqueueMany(t.Context(), tx, many); return err }, 32, 0},
		{"999 and an invalid one", func(tx outbox.Tx) error {
			_, err := outbox.EnqueueMany(t.Context(), tx, append(slices.Clone(many[:999]), invalid))
			if field := (*outbox.InvalidError)(nil); !errors.As(err, &field) || !strings.HasPrefix(err.Error(), "message 999: ") {
				return fmt.Errorf("the error is %w", err)
			}
			return nil
		}, 0, 0},
	} {
		c := &counting{Tx: tx}
		if err := step.run(c); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		if c.execs != step.execs || c.queries != step.queries {
			t.Errorf("%s runs %d statements and %d queries, want %d and %d", step.name, c.execs, c.queries, step.execs, step.queries)
		}
	}
}

func TestInvalidMessageLeavesTheTransactionUsable(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		d.within(t, func(tx outbox.Tx) {
			for _, spoil := range []func(m *outbox.Message){
				func(m *outbox.Message) { m.To = nil },
				func(m *outbox.Message) { m.Key = "\x00" },
				func(m *outbox.Message) { m.Subject = "\xff" },
				func(m *outbox.Message) { m.Metadata = map[string]string{"k": "\x00"} },
				func(m *outbox.Message) { m.Expires = time.Unix(0, 0) },
			} {
				m := message("")
				spoil(m)
				var invalid *outbox.InvalidError
				if _, err := outbox.Enqueue(t.Context(), tx, m); !errors.As(err, &invalid) {
					t.Errorf("%+v: %v", m, err)
				}
			}
			enqueue(t, tx, message("good"))
		})
		if n := d.count(t, `SELECT count(*) FROM outbox_messages`); n != 1 {
			t.Errorf("%d messages, want 1", n)
		}
	})
}

func TestEnqueueMany(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		var first outbox.Receipt
		d.within(t, func(tx outbox.Tx) { first = enqueue(t, tx, message("old")) })
		// Three kinds alternate: without a key, with a new one, with one that was there before.
		msgs := make([]*outbox.Message, 300)
		for i := range msgs {
			switch i % 3 {
			case 0:
				msgs[i] = message("")
			case 1:
				msgs[i] = message(fmt.Sprint("new-", (300-i)%150))
			default:
				msgs[i] = message("old")
			}
		}
		check := func(receipts []outbox.Receipt, known bool) {
			t.Helper()
			if len(receipts) != len(msgs) {
				t.Fatalf("%d receipts", len(receipts))
			}
			stored := make(map[string]outbox.Receipt) // by key
			for i, r := range receipts {
				key := msgs[i].Key
				earlier, again := stored[key]
				again = again && key != ""
				if key == "old" {
					earlier, again = first, true
				}
				if r.Duplicate != again {
					t.Fatalf("message %d (key %q) is %+v", i, key, r)
				}
				switch {
				case !again:
					stored[key] = r
					if n := d.count(t, `SELECT count(*) FROM outbox_messages WHERE id = $1 AND message_id = $2`, string(r.ID), r.MessageID); n != 1 {
						t.Fatalf("message %d (key %q) is not stored as %+v", i, key, r)
					}
				case known && (r.ID != earlier.ID || r.MessageID != earlier.MessageID):
					t.Fatalf("message %d (key %q) is %+v, a duplicate of %+v", i, key, r, earlier)
				case !known && r != outbox.Receipt{Duplicate: true}:
					t.Fatalf("message %d (key %q) is %+v", i, key, r)
				}
			}
		}
		many := func(wrap func(outbox.Tx) outbox.Tx) (receipts []outbox.Receipt) {
			t.Helper()
			d.within(t, func(tx outbox.Tx) {
				var err error
				if receipts, err = outbox.EnqueueMany(t.Context(), wrap(tx), msgs); err != nil {
					t.Fatal(err)
				}
			})
			return receipts
		}
		check(many(func(tx outbox.Tx) outbox.Tx { return tx }), true)
		if n := d.count(t, `SELECT count(*) FROM outbox_deliveries`); n != 1+100+50 {
			t.Errorf("%d deliveries, want 151", n)
		}
		d.exec(t, `DELETE FROM outbox_messages WHERE idempotency_key <> 'old'`)
		check(many(func(tx outbox.Tx) outbox.Tx { return outbox.InTx(onlyExec{tx}) }), false)
		if n := d.count(t, `SELECT count(*) FROM outbox_deliveries`); n != 1+100+100+50 {
			t.Errorf("%d deliveries, want 251", n)
		}
	})
}

func TestLargeMessagesInOneCall(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		msgs := make([]*outbox.Message, 6)
		for i := range msgs {
			msgs[i] = message(strconv.Itoa(i))
			msgs[i].Attachments = []outbox.Attachment{{Name: "a", Data: make([]byte, (i%3)*2<<20)}}
		}
		d.within(t, func(tx outbox.Tx) {
			if _, err := outbox.EnqueueMany(t.Context(), tx, msgs); err != nil {
				t.Fatal(err)
			}
		})
		if n := d.count(t, `SELECT count(*) FROM outbox_messages WHERE size = length(body)`); n != 6 {
			t.Errorf("%d messages, want 6", n)
		}
	})
}

func TestDatabaseWithoutTables(t *testing.T) {
	for _, e := range engines() {
		t.Run(e.name, func(t *testing.T) {
			d := e.open(t)
			id := outbox.ID("01980a5c-7d1f-7cc3-9b3e-3f1d8a6f2b11")
			calls := map[string]func(tx outbox.Tx) error{
				"Enqueue": func(tx outbox.Tx) error { _, err := outbox.Enqueue(t.Context(), tx, message("")); return err },
				"EnqueueMany": func(tx outbox.Tx) error {
					_, err := outbox.EnqueueMany(t.Context(), tx, []*outbox.Message{message("")})
					return err
				},
				"Cancel": func(tx outbox.Tx) error { _, err := outbox.Cancel(t.Context(), tx, id); return err },
			}
			for _, missing := range []string{"table", "column"} {
				if missing == "column" {
					d.exec(t, `CREATE TABLE outbox_messages (id TEXT, idempotency_key TEXT UNIQUE)`)
					delete(calls, "Cancel")
				}
				for name, call := range calls {
					tx := d.begin(t)
					err := call(tx.Tx)
					if !errors.Is(err, outbox.ErrNotMigrated) || !strings.Contains(err.Error(), "outboxctl migrate up") {
						t.Errorf("%s without a %s: %v", name, missing, err)
					}
					if err := tx.rollback(); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// TestSwallowedInsert shows that an INSERT that the database takes and forgets is not taken for a stored message.
func TestSwallowedInsert(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		if d.dialect == schema.SQLite {
			d.exec(t, `CREATE TRIGGER swallow BEFORE INSERT ON outbox_messages BEGIN SELECT RAISE(IGNORE); END`)
		} else {
			d.exec(t, `CREATE RULE swallow AS ON INSERT TO outbox_messages DO INSTEAD NOTHING`)
		}
		d.within(t, func(tx outbox.Tx) {
			if r, err := outbox.Enqueue(t.Context(), tx, message("")); err == nil {
				t.Errorf("Enqueue returns %+v", r)
			}
		})
	})
}

func TestCancelledContext(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		tx := d.begin(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := outbox.Enqueue(ctx, tx.Tx, message("")); !errors.Is(err, context.Canceled) {
			t.Errorf("the error is %v", err)
		}
		_ = tx.rollback()
	})
}
