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
	all, err := b.compare(meter{server: b.master}, writers,
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
	wal, err := walAbove(b.ctx, db, b.share(500))
	if err != nil {
		return err
	}
	const work = "P1 enqueue, own transactions ×8, PostgreSQL"
	toRiver, toBare := all[0].rate()/all[1].rate(), all[0].rate()/all[2].rate()
	b.report(
		result{work: work + " (lib/pq)", who: ours, figures: all[0], ratio: fmt.Sprintf("%s River, %s bare", times(toRiver), times(toBare)),
			bar: "≥ 1.3 × River, ≥ 0.7 × bare", met: toRiver >= 1.3 && toBare >= 0.7},
		result{work: work + " (pgx)", who: "River InsertTx", figures: all[1]},
		result{work: work + " (lib/pq)", who: "bare INSERT", figures: all[2]},
		result{work: "P1 WAL of an enqueue above the body as it is stored", who: ours, more: fmt.Sprintf("%.0f B", wal), bar: "≤ 800 B", met: wal <= 800},
	)
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
	all, err := b.compare(meter{}, writers,
		contender{"outbox", func(ctx context.Context) error { return enqueue(ctx, db) }},
		contender{"bare INSERT", bareInsert(db, body)},
	)
	if err != nil {
		return err
	}
	const work = "P2 the same on SQLite (WAL, synchronous NORMAL)"
	ratio := all[0].rate() / all[1].rate()
	b.report(
		result{work: work, who: ours, figures: all[0], ratio: times(ratio) + " bare", bar: "≥ 0.55 ×", met: ratio >= 0.55},
		result{work: work, who: "bare INSERT", figures: all[1]},
	)
	return nil
}

// walAbove returns how many bytes of WAL an enqueue writes above its body as it is stored. The least of several windows counts, because
// after a checkpoint PostgreSQL writes whole pages.
func walAbove(ctx context.Context, db *sql.DB, n int) (float64, error) {
	const windows = 5
	var stored, least float64
	err := db.QueryRowContext(ctx, "SELECT avg(pg_column_size(body)) FROM (SELECT body FROM outbox_messages LIMIT 100) AS x").Scan(&stored)
	if err != nil {
		return 0, err
	}
	for i := range windows {
		var before string
		if err := db.QueryRowContext(ctx, "SELECT pg_current_wal_insert_lsn()").Scan(&before); err != nil {
			return 0, err
		}
		for range n {
			if err := enqueue(ctx, db); err != nil {
				return 0, err
			}
		}
		var written float64
		if err := db.QueryRowContext(ctx, "SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", before).Scan(&written); err != nil {
			return 0, err
		}
		if each := written / float64(n); i == 0 || each < least {
			least = each
		}
	}
	return least - stored, nil
}

// many is how many letters EnqueueMany takes in P1b.
const many = 32

// enqueueMany is P1b.
func (b *bench) enqueueMany() error {
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
	if err := schema.Migrate(b.ctx, db, schema.Postgres); err != nil {
		return err
	}
	all, err := b.compare(meter{server: b.master}, writers,
		contender{"EnqueueMany", func(ctx context.Context) error { return enqueueAll(ctx, db, many) }},
		contender{"Enqueue", func(ctx context.Context) error { return enqueue(ctx, db) }},
	)
	if err != nil {
		return err
	}
	for i := range all[0].stretches {
		all[0].stretches[i].n *= many
	}
	const work = "P1b enqueue, own transactions ×8, PostgreSQL (lib/pq)"
	together := result{work: fmt.Sprintf("%s: EnqueueMany of %d", work, many), who: ours, figures: all[0]}
	if b.master != 0 {
		ratio := float64(all[0].server()) / float64(all[1].server())
		together.ratio, together.bar, together.met = times(ratio)+" of the server's CPU", "≤ 0.5 ×", ratio <= 0.5
	}
	b.report(together, result{work: work + ": Enqueue", who: ours, figures: all[1]})
	return nil
}

// enqueueAll commits n letters together.
func enqueueAll(ctx context.Context, db *sql.DB, n int) error {
	list := make([]*outbox.Message, n)
	for i := range list {
		list[i] = letter()
	}
	return commitAll(ctx, db, list)
}

// commitAll commits messages together.
func commitAll(ctx context.Context, db *sql.DB, list []*outbox.Message) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := outbox.EnqueueMany(ctx, tx, list); err != nil {
		return err
	}
	return tx.Commit()
}
