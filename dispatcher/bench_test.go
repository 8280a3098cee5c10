package dispatcher_test

import (
	"database/sql"
	"log/slog"
	"strings"
	"testing"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
	"github.com/outboxmail/outbox/store"
)

// BenchmarkDrain delivers a backlog of b.N messages of 2 KB over 10 connections in clear to a relay in this process.
func BenchmarkDrain(b *testing.B) {
	for _, engine := range []string{"sqlite", "postgres"} {
		b.Run(engine, func(b *testing.B) {
			name := b.TempDir() + "/app.db"
			if engine == "postgres" {
				name = pgtest.DSN(b)
			}
			db, err := openDatabase(name)
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = db.Close() }()
			st, err := store.New(db, dialectOf(db))
			if err != nil {
				b.Fatal(err)
			}
			if err := schema.Migrate(b.Context(), db, st.Dialect()); err != nil {
				b.Fatal(err)
			}
			backlog(b, db, b.N)
			server := smtptest.New(b, smtptest.Config{TLS: smtptest.NoTLS, Discard: true})
			client, err := smtpx.Open(server.URL("conns=50"))
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = client.Close() }()
			d, err := dispatcher.New(dispatcher.Config{
				Queue: st, Relays: []dispatcher.Relay{{Name: "main", Sender: client}}, Concurrency: 50, Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			report, err := d.Flush(b.Context())
			if err != nil || report.Sent != b.N {
				b.Fatalf("%+v: %v", report, err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// backlog commits n messages.
func backlog(b *testing.B, db *sql.DB, n int) {
	b.Helper()
	text := strings.Repeat("A line of an ordinary letter to a customer of the shop.\n", 30)
	for n > 0 {
		tx, err := db.BeginTx(b.Context(), nil)
		if err != nil {
			b.Fatal(err)
		}
		list := make([]*outbox.Message, min(n, 1000))
		for i := range list {
			list[i] = &outbox.Message{
				From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ada@example.org"}},
				Subject: "Your order", Text: text,
			}
		}
		if _, err := outbox.EnqueueMany(b.Context(), tx, list); err != nil {
			b.Fatal(err)
		}
		if err := tx.Commit(); err != nil {
			b.Fatal(err)
		}
		n -= len(list)
	}
}
