package main

import (
	"bytes"
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
	"github.com/outboxmail/outbox/store/sqlite"
)

// database holds the tables of the application and of its outbox.
type database struct {
	db    *sql.DB
	queue *store.Store
	place string // its description in the output
	path  string // of an SQLite file
	close func()
}

func openDatabase(ctx context.Context, name string) (*database, error) {
	if strings.HasPrefix(name, "postgres://") || strings.HasPrefix(name, "postgresql://") {
		db, err := postgres.Open(name)
		if err != nil {
			return nil, err
		}
		queue, err := store.New(db, schema.Postgres)
		if err != nil {
			return nil, err
		}
		return migrated(ctx, &database{db: db, queue: queue, place: "PostgreSQL", close: func() { _ = db.Close() }})
	}
	path, place, remove := strings.TrimPrefix(name, "sqlite:"), "SQLite file "+name, func() {}
	if name == "" {
		dir, err := os.MkdirTemp("", "outbox-passwordreset-")
		if err != nil {
			return nil, err
		}
		path, place, remove = filepath.Join(dir, "shop.db"), "SQLite file in a temporary folder", func() { _ = os.RemoveAll(dir) }
	}
	db, err := sqlite.Open(path)
	if err != nil {
		remove()
		return nil, err
	}
	queue, err := store.New(db, schema.SQLite)
	if err != nil {
		return nil, err
	}
	return migrated(ctx, &database{db: db, queue: queue, place: place, path: path, close: func() { _ = db.Close(); remove() }})
}

func migrated(ctx context.Context, d *database) (*database, error) {
	if err := schema.Migrate(ctx, d.db, d.queue.Dialect()); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// row holds columns of a message as anyone with access to the database reads them.
type row struct {
	keyID, metadata sql.NullString
	subject         string
	body            []byte
	state           string
}

func (d *database) row(ctx context.Context, id outbox.ID) (r row, err error) {
	err = d.db.QueryRowContext(ctx, `SELECT m.body_key_id, CAST(m.metadata AS TEXT), m.subject, m.body, d.state
		FROM outbox_messages m JOIN outbox_deliveries d ON d.message_id = m.id WHERE m.id = $1`, string(id)).
		Scan(&r.keyID, &r.metadata, &r.subject, &r.body, &r.state)
	return r, err
}

// holds counts the occurrences of a text in the row and, on SQLite, in the files of the database.
func (d *database) holds(r row, text string) (int, error) {
	n := strings.Count(r.subject, text) + strings.Count(r.metadata.String, text) + bytes.Count(r.body, []byte(text))
	if d.path == "" {
		return n, nil
	}
	files, err := filepath.Glob(d.path + "*")
	if err != nil {
		return n, err
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return n, err
		}
		n += bytes.Count(content, []byte(text))
	}
	return n, nil
}
