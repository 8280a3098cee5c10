package store_test

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
)

// databaseOf names the database of a DSN.
func databaseOf(t *testing.T, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(u.Path, "/")
}

// After a failover the open sessions lead to a server that only reads. The first error drops the idle sessions. The next call
// works, whatever it is and whichever driver the pool has.
func TestSessionsThatCannotWriteAreDropped(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"postgres", "pgx"} {
		for name, call := range map[string]func(t *testing.T, s *store.Store) error{
			"claim": func(t *testing.T, s *store.Store) error {
				t.Helper()
				_, err := s.Claim(t.Context(), queue.ClaimRequest{Owner: "d", Limit: 10, Lease: time.Minute})
				return err
			},
			"heartbeat": func(t *testing.T, s *store.Store) error {
				t.Helper()
				return s.Heartbeat(t.Context(), queue.Heartbeat{ID: "d", Host: "h", Version: "v"})
			},
			"hold": func(t *testing.T, s *store.Store) error {
				t.Helper()
				_, err := s.Hold(t.Context(), store.Filter{})
				return err
			},
		} {
			t.Run(driver+" "+name, func(t *testing.T) {
				t.Parallel()
				dsn := pgtest.DSN(t)
				admin := opened(t, schema.Postgres)(postgres.Open(dsn))
				migrated(t, admin)
				enqueueOne(t, admin, "key")
				set := `ALTER DATABASE "` + databaseOf(t, dsn) + `" `
				admin.MustExecContext(t.Context(), set+"SET default_transaction_read_only = on")
				db := openDriver(t, driver, dsn)
				db.SetMaxIdleConns(4)
				s, err := store.New(db.DB, schema.Postgres)
				if err != nil {
					t.Fatal(err)
				}
				var held []*sqlx.Conn
				for range 4 {
					c, err := db.Connx(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					held = append(held, c)
				}
				for _, c := range held {
					if err := c.Close(); err != nil {
						t.Fatal(err)
					}
				}
				admin.MustExecContext(t.Context(), set+"RESET default_transaction_read_only")
				if n := db.Stats().Idle; n != 4 {
					t.Fatalf("%d sessions are idle, want 4", n)
				}
				if err := call(t, s); !errors.Is(err, store.ErrReadOnly) || !strings.Contains(err.Error(), "read-only transaction") {
					t.Fatalf("the first call: %v", err)
				}
				if err := call(t, s); err != nil {
					t.Errorf("the second call: %v", err)
				}
			})
		}
	}
}

func openDriver(t *testing.T, driver, dsn string) *sqlx.DB {
	t.Helper()
	if driver == "postgres" {
		return opened(t, schema.Postgres)(postgres.Open(dsn))
	}
	return opened(t, schema.Postgres)(sql.Open(driver, dsn))
}

// Outcomes are recorded in a database whose encoding lacks the characters of a relay's words.
func TestWordsThatTheEncodingLacks(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"WIN1252", "LATIN1", "SQL_ASCII", "UTF8"} {
		for _, driver := range []string{"postgres", "pgx"} {
			t.Run(encoding+" "+driver, func(t *testing.T) {
				t.Parallel()
				dsn := pgtest.DSN(t)
				admin := opened(t, schema.Postgres)(postgres.Open(dsn))
				other := databaseOf(t, dsn) + "_encoded"
				admin.MustExecContext(t.Context(), fmt.Sprintf(`CREATE DATABASE %q TEMPLATE template0 ENCODING '%s' LC_COLLATE 'C' LC_CTYPE 'C'`, other, encoding))
				t.Cleanup(func() {
					if _, err := admin.Exec(fmt.Sprintf(`DROP DATABASE %q WITH (FORCE)`, other)); err != nil {
						t.Error(err)
					}
				})
				u, err := url.Parse(dsn)
				if err != nil {
					t.Fatal(err)
				}
				u.Path = "/" + other
				db := openDriver(t, driver, u.String())
				s := migrated(t, db)
				for i := range 5 {
					enqueueOne(t, db, fmt.Sprint("key", i))
				}
				claimed, err := s.Claim(t.Context(), queue.ClaimRequest{Owner: "d", Limit: 10, Lease: time.Minute})
				if err != nil || len(claimed) != 5 {
					t.Fatalf("%d claimed: %v", len(claimed), err)
				}
				words := []string{"250 2.0.0 Ok: принято", "250 café", "250 \ufffd \x00 \u2028 日本 😀", `250 "C:\dir" ok`, "250 ok"}
				var list []queue.Settlement
				for i, c := range claimed {
					list = append(list, queue.Settlement{Ref: c.Ref(0), Outcome: queue.Sent, Evidence: queue.Evidence{
						Relay: "main", Code: 250, Reply: words[i], ProviderID: words[i],
					}})
				}
				list[4].Outcome, list[4].Suppress = queue.Failed, true
				list[4].Evidence.Reply = "550 нет"
				if lost, err := s.Settle(t.Context(), "d", list); err != nil || len(lost) > 0 {
					t.Fatalf("settle: %v, %v", lost, err)
				}
				deliveries, err := s.List(t.Context(), store.Filter{})
				if err != nil {
					t.Fatal(err)
				}
				replies := make(map[string]string)
				for _, d := range deliveries {
					replies[string(d.ID)] = d.Reply
				}
				first, path := replies[string(claimed[0].ID)], replies[string(claimed[3].ID)]
				// SQL_ASCII takes any bytes, but not the escape that JSON has for one of the characters beside it.
				if want := words[0]; first != want && (encoding == "UTF8" || first != `250 2.0.0 Ok: \u043f\u0440\u0438\u043d\u044f\u0442\u043e`) {
					t.Errorf("the words are %q", first)
				}
				if path != words[3] {
					t.Errorf("ASCII became %q, want %q", path, words[3])
				}
				report, err := s.RecordFeedback(t.Context(),
					queue.Feedback{Kind: queue.FeedbackDelivered, ProviderID: words[0], EventID: "событие", Detail: "доставлено"},
					queue.Feedback{Kind: queue.FeedbackDelivered, MessageID: claimed[1].MessageID, EventID: "e2"})
				if err != nil || report.Recorded != 2 {
					t.Errorf("feedback: %+v, %v", report, err)
				}
				if err := s.Heartbeat(t.Context(), queue.Heartbeat{ID: "d", Host: "h", Version: "v", Relays: map[string]queue.RelayHealth{"main": {State: "offline", Reason: "отказ"}}}); err != nil {
					t.Errorf("heartbeat: %v", err)
				}
				if err := s.PauseRelay(t.Context(), "main", time.Hour, "квота"); err != nil {
					t.Errorf("pause: %v", err)
				}
			})
		}
	}
}

// No write of a dispatcher or an operator takes a number from a sequence. After a switch-over to a logical replica a sequence
// may be behind.
func TestNoSequences(t *testing.T) {
	t.Parallel()
	db := openPQ(t)
	migrated(t, db)
	var n int
	if err := db.GetContext(t.Context(), &n, "SELECT count(*) FROM pg_class WHERE relkind = 'S' AND relname LIKE 'outbox%'"); err != nil || n != 0 {
		t.Errorf("%d sequences: %v", n, err)
	}
}

// On PostgreSQL a claim carries the body of a message once, whatever the number of its recipients. All recipients have their
// message.
func TestClaimCarriesABodyOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store, db *sqlx.DB) {
		for i := range 3 {
			enqueueTo(t, db, fmt.Sprint("k", i), 40+i)
		}
		claimed, err := s.Claim(t.Context(), queue.ClaimRequest{Owner: "d", Limit: 1000, Lease: time.Minute, InlineBytes: 1 << 20})
		if err != nil || len(claimed) != 3 {
			t.Fatalf("%d claimed: %v", len(claimed), err)
		}
		for i, c := range claimed {
			if int64(len(c.Body)) != c.Size || len(c.Deliveries) != 40+i || len(c.Tags) != 1 || c.Metadata["n"] != "1" {
				t.Errorf("message %d: %d of %d bytes, %d deliveries, tags %v, metadata %v", i, len(c.Body), c.Size, len(c.Deliveries), c.Tags, c.Metadata)
			}
		}
	})
}

// enqueueTo enqueues a labelled message to n recipients.
func enqueueTo(t *testing.T, db *sqlx.DB, key string, n int) {
	t.Helper()
	m := &outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, Subject: "Your order", Text: "x", Key: key,
		Tags: []string{"t"}, Metadata: map[string]string{"n": "1"},
	}
	for i := range n {
		m.To = append(m.To, outbox.Address{Address: fmt.Sprintf("u%d@example.org", i)})
	}
	tx := db.MustBeginTx(t.Context(), nil)
	defer func() { _ = tx.Rollback() }()
	if _, err := outbox.Enqueue(t.Context(), tx, m); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}
