package main

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store/postgres"
	"github.com/outboxmail/outbox/store/sqlite"
)

// writers is how many goroutines enqueue at a time, each in transactions of its own.
const writers = 8

// letter is about 2 KB once it is rendered.
func letter() *outbox.Message {
	return &outbox.Message{
		From: outbox.Address{Name: "Shop", Address: "shop@example.com"}, To: []outbox.Address{{Address: "ada@example.org"}},
		Subject: "Your order", Text: strings.Repeat("A line of an ordinary letter to a customer of the shop.\n", 30),
	}
}

// enqueue commits one letter.
func enqueue(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := outbox.Enqueue(ctx, tx, letter()); err != nil {
		return err
	}
	return tx.Commit()
}

// bareInsert commits the same row, rendered once, in a table without trigger, checks or further indexes.
func bareInsert(db *sql.DB, r bareRow) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		_, err = tx.ExecContext(ctx, "INSERT INTO bare (id, message_id, sender, recipients, subject, size, body) VALUES ($1, $2, $3, $4, $5, $6, $7)",
			id.String(), r.MessageID, r.Sender, r.Recipients, r.Subject, r.Size, r.Body)
		if err != nil {
			return err
		}
		return tx.Commit()
	}
}

// bareRow is what a letter's row holds.
type bareRow struct {
	MessageID  string
	Sender     string
	Recipients string
	Subject    string
	Size       int64
	Body       []byte
}

// prepare makes the tables in an empty database and returns the row of a letter.
func prepare(ctx context.Context, db *sql.DB, d schema.Dialect) (bareRow, error) {
	var r bareRow
	if err := schema.Migrate(ctx, db, d); err != nil {
		return r, err
	}
	if err := enqueue(ctx, db); err != nil {
		return r, err
	}
	err := db.QueryRowContext(ctx, "SELECT message_id, sender, recipients, subject, size, body FROM outbox_messages").
		Scan(&r.MessageID, &r.Sender, &r.Recipients, &r.Subject, &r.Size, &r.Body)
	if err != nil {
		return r, err
	}
	// The same columns and types; a table made from a query has neither trigger nor checks.
	if _, err := db.ExecContext(ctx, "CREATE TABLE bare AS SELECT * FROM outbox_messages WHERE 1 = 0"); err != nil {
		return r, err
	}
	_, err = db.ExecContext(ctx, "CREATE UNIQUE INDEX bare_id ON bare (id)")
	return r, err
}

// mailArgs is the same letter as a job of River.
type mailArgs struct {
	From, To, Subject string
	Body              string
}

// Kind implements river.JobArgs.
func (mailArgs) Kind() string { return "mail" }

// enqueuePostgres is P1.
func (b *bench) enqueuePostgres() error {
	dsn, drop, err := b.database()
	if err != nil {
		return err
	}
	defer drop()
	db, err := postgres.Open(dsn)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	db.SetMaxIdleConns(writers)
	body, err := prepare(b.ctx, db, schema.Postgres)
	if err != nil {
		return err
	}
	pool, err := pgxpool.New(b.ctx, dsn)
	if err != nil {
		return err
	}
	defer pool.Close()
	driver := riverpgxv5.New(pool)
	migrator, err := rivermigrate.New(driver, nil)
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(b.ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	client, err := river.NewClient(driver, &river.Config{})
	if err != nil {
		return err
	}
	job := mailArgs{From: "shop@example.com", To: "ada@example.org", Subject: "Your order", Body: string(body.Body)}
	rates, err := b.compare(writers,
		contender{"outbox", func(ctx context.Context) error { return enqueue(ctx, db) }},
		contender{"River", func(ctx context.Context) error {
			tx, err := pool.Begin(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback(ctx) }()
			if _, err := client.InsertTx(ctx, tx, job, nil); err != nil {
				return err
			}
			return tx.Commit(ctx)
		}},
		contender{"bare INSERT", bareInsert(db, body)},
	)
	if err != nil {
		return err
	}
	b.report(result{
		"P1 enqueue, own transactions ×8, PostgreSQL (lib/pq)",
		fmt.Sprintf("outbox %.0f/s, River InsertTx (pgx) %.0f/s, bare INSERT (lib/pq) %.0f/s", rates[0], rates[1], rates[2]),
		fmt.Sprintf("%.2f × River, %.2f × bare", rates[0]/rates[1], rates[0]/rates[2]),
		"≥ 1.0 × River, ≥ 0.8 × bare", rates[0] >= rates[1] && rates[0] >= 0.8*rates[2],
	})
	return nil
}

// enqueueSQLite is P2.
func (b *bench) enqueueSQLite() error {
	db, err := sqlite.Open(filepath.Join(b.dir, "enqueue.db"), sqlite.RelaxedSync())
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	db.SetMaxIdleConns(writers)
	body, err := prepare(b.ctx, db, schema.SQLite)
	if err != nil {
		return err
	}
	rates, err := b.compare(writers,
		contender{"outbox", func(ctx context.Context) error { return enqueue(ctx, db) }},
		contender{"bare INSERT", bareInsert(db, body)},
	)
	if err != nil {
		return err
	}
	b.report(result{
		"P2 the same on SQLite (WAL, synchronous NORMAL)",
		fmt.Sprintf("outbox %.0f/s, bare INSERT %.0f/s", rates[0], rates[1]),
		fmt.Sprintf("%.2f × bare", rates[0]/rates[1]), "≥ 0.8 × bare", rates[0] >= 0.8*rates[1],
	})
	return nil
}
