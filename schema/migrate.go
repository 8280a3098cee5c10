package schema

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/outboxmail/outbox/internal/pgschema"
	"github.com/outboxmail/outbox/internal/sqlstate"
)

// VersionError says that a database and the program do not agree on the schema.
type VersionError struct {
	// Have is the version of the database, 0 if it has no tables of outbox.
	Have int
	// Want is the version that the program needs.
	Want int
	// Schema is the PostgreSQL schema given with [In], or empty.
	Schema string
}

// Error says which side is older and what to do.
func (e *VersionError) Error() string {
	where, flag := "the database", ""
	if e.Schema != "" {
		where, flag = "the schema "+pgschema.Quote(e.Schema), " --schema '"+strings.ReplaceAll(e.Schema, "'", `'\''`)+"'"
	}
	switch {
	case e.Have == 0:
		return fmt.Sprintf("%s has no outbox tables: run `outboxctl migrate up%s` or call schema.Migrate", where, flag)
	case e.Have < e.Want:
		return fmt.Sprintf("%s is at outbox schema version %d, this program needs %d: "+
			"run `outboxctl migrate up%s` or call schema.Migrate", where, e.Have, e.Want, flag)
	default:
		return fmt.Sprintf("%s is at outbox schema version %d, this program knows only %d: "+
			"use a newer version of the program", where, e.Have, e.Want)
	}
}

// ChecksumError says that the database was migrated by another text of a step than this program has.
type ChecksumError struct {
	// Version is the number of the step. Have is the checksum in the database, Want that of the program.
	Version    int
	Have, Want string
}

// Error names the step and what to do.
func (e *ChecksumError) Error() string {
	return fmt.Sprintf("outbox migration %d was applied in another form (checksum %.12s, this program has %.12s): "+
		"compare the tables with `outboxctl migrate sql`, mend the difference, then set the checksum in outbox_migrations",
		e.Version, e.Have, e.Want)
}

// lockKey is the advisory lock that migrations of one PostgreSQL database take: "outbox" in ASCII.
const lockKey = 0x6f7574626f78

// busyWait is how long a migration waits for other writers of an SQLite file if its connections would wait for less.
const busyWait = 15 * time.Second

// Migrate brings the database to [Latest] in one transaction. On an error nothing has changed. Many processes may call it at once,
// whatever the default isolation of the database. It does nothing if the database is at Latest already.
//
// The error is a [*VersionError] for a database that is newer than the program, a [*ChecksumError] for one that was migrated by another
// text, a [*ForeignFileError] for an SQLite file of another application, or that of the driver.
func Migrate(ctx context.Context, db *sql.DB, d Dialect, opts ...Option) error {
	steps, err := Migrations(d)
	if err != nil {
		return err
	}
	return migrate(ctx, db, d, steps, opts...)
}

// migrate brings the database to the last of the steps.
func migrate(ctx context.Context, db *sql.DB, d Dialect, steps []Migration, opts ...Option) error {
	set, err := configureFor(d, opts)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("migrate: connect: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if d == SQLite {
		restore, err := waitWhenBusy(ctx, conn)
		if err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
		defer restore()
	}
	// The common case takes no lock, writes nothing and needs no right to create tables.
	var behind *VersionError
	if err := check(ctx, conn, d, steps, set); err == nil || !errors.As(err, &behind) || behind.Have > behind.Want {
		return err
	}
	// A step locks several tables while dispatchers work on them in another order. If PostgreSQL breaks it off as a deadlock, nothing was
	// changed, and it is repeated.
	for n := 1; ; n++ {
		err := locked(ctx, conn, d, func() error { return apply(ctx, conn, d, steps, set) })
		if err == nil {
			return nil
		}
		if n == tries || sqlstate.Of(err) != sqlstate.DeadlockDetected {
			return fmt.Errorf("migrate: %w", err)
		}
	}
}

// tries is how often a migration is begun before a deadlock ends it.
const tries = 10

// locked runs fn in a transaction beside which no other migration runs.
func locked(ctx context.Context, conn *sql.Conn, d Dialect, fn func() error) (err error) {
	// A stricter level would look at the database as it was before the wait for the lock.
	begin := "BEGIN ISOLATION LEVEL READ COMMITTED"
	if d == SQLite {
		begin = "BEGIN IMMEDIATE" // a transaction that only starts to write later could not wait for another writer
	}
	if _, err := conn.ExecContext(ctx, begin); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		// The context may be what failed. A connection that cannot roll back must not go back to the pool.
		if _, rollback := conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK"); rollback != nil {
			_ = conn.Raw(func(any) error { return driver.ErrBadConn })
		}
	}()
	if d == Postgres {
		if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", lockKey); err != nil {
			return err
		}
	}
	if err := fn(); err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, "COMMIT")
	return err
}

// apply runs the steps that the database lacks.
func apply(ctx context.Context, conn *sql.Conn, d Dialect, steps []Migration, set settings) error {
	home := set.schema
	if d == Postgres {
		var err error
		if home, err = homeOf(ctx, conn, set.schema); err != nil {
			return err
		}
	}
	run := func(statement string) error {
		_, err := conn.ExecContext(ctx, pgschema.Qualify(statement, home))
		return err
	}
	if err := run(migrationsTable); err != nil {
		return err
	}
	applied, err := read(ctx, conn, home)
	if err != nil {
		return err
	}
	if err := compare(applied, steps, set); err != nil {
		return err
	}
	for _, m := range steps[len(applied):] {
		for _, statement := range append(statements(m.SQL), record(d, m)) {
			if err := run(statement); err != nil {
				first, _, _ := strings.Cut(statement, "\n")
				return fmt.Errorf("step %d (%s): %q: %w", m.Version, m.Name, first, err)
			}
		}
	}
	return nil
}

// homeOf returns the PostgreSQL schema in which the tables are or will be, and creates a schema that was asked for. If the search path
// decides, its answer is written into every statement. The search path of a later session may lead elsewhere, as "$user" does, and the
// functions of the triggers must still find their tables. It returns "" if the search path leads nowhere; PostgreSQL then says so.
func homeOf(ctx context.Context, conn *sql.Conn, asked string) (string, error) {
	if asked == "" {
		var home string
		err := conn.QueryRowContext(ctx, `SELECT coalesce((SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass('outbox_migrations')), current_schema(), '')`).Scan(&home)
		if err != nil || home == "" {
			return "", err
		}
		return home, pgschema.Check(home)
	}
	var exists bool
	err := conn.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1)", asked).Scan(&exists)
	if err != nil || exists {
		return asked, err
	}
	_, err = conn.ExecContext(ctx, "CREATE SCHEMA "+pgschema.Quote(asked))
	return asked, err
}

// queryer is the part of *sql.DB and *sql.Conn that reading the versions needs.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// row is a row of outbox_migrations.
type row struct {
	version  int
	checksum string
}

// read lists the applied steps in their order.
func read(ctx context.Context, q queryer, schema string) (applied []row, err error) {
	rows, err := q.QueryContext(ctx, pgschema.Qualify("SELECT version, checksum FROM outbox_migrations ORDER BY version", schema))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.version, &r.checksum); err != nil {
			return nil, err
		}
		applied = append(applied, r)
	}
	return applied, rows.Err()
}

// compare refuses a database that is newer than steps, has gaps, or was migrated by another text.
func compare(applied []row, steps []Migration, set settings) error {
	for i, r := range applied {
		if i >= len(steps) {
			return &VersionError{Have: applied[len(applied)-1].version, Want: len(steps), Schema: set.schema}
		}
		if r.version != steps[i].Version {
			return fmt.Errorf("outbox_migrations lacks step %d but has step %d: restore the missing row or the database",
				steps[i].Version, r.version)
		}
		if r.checksum != steps[i].Checksum {
			return &ChecksumError{Version: r.version, Have: r.checksum, Want: steps[i].Checksum}
		}
	}
	return nil
}

// Version returns the version of the database's schema, 0 if it has no tables of outbox. It writes nothing. Of the options it uses only
// [In].
func Version(ctx context.Context, db *sql.DB, opts ...Option) (int, error) {
	set, err := configureFor("", opts)
	if err != nil {
		return 0, fmt.Errorf("read the schema version: %w", err)
	}
	applied, err := read(ctx, db, set.schema)
	if err != nil {
		if missingTable(err) {
			return 0, nil
		}
		return 0, fmt.Errorf("read the schema version: %w", err)
	}
	if len(applied) == 0 {
		return 0, nil
	}
	return applied[len(applied)-1].version, nil
}

// Check returns nil if the database is at [Latest] and was migrated by the text that this program has. Else the error is a
// [*VersionError], a [*ChecksumError], a [*ForeignFileError], or that of the driver. It writes nothing.
func Check(ctx context.Context, db *sql.DB, d Dialect, opts ...Option) error {
	steps, err := Migrations(d)
	if err != nil {
		return err
	}
	set, err := configureFor(d, opts)
	if err != nil {
		return fmt.Errorf("check the schema: %w", err)
	}
	return check(ctx, db, d, steps, set)
}

func check(ctx context.Context, q queryer, d Dialect, steps []Migration, set settings) error {
	applied, err := read(ctx, q, set.schema)
	missing := err != nil && missingTable(err)
	if err != nil && !missing {
		return fmt.Errorf("read the schema version: %w", err)
	}
	if d == SQLite {
		if err := checkMark(ctx, q, set, missing); err != nil {
			return err
		}
	}
	if err := compare(applied, steps, set); err != nil {
		return err
	}
	if len(applied) < len(steps) {
		return &VersionError{Have: len(applied), Want: len(steps), Schema: set.schema}
	}
	return nil
}

// missingTable reports whether a query failed because outbox_migrations does not exist. SQLite has no code for that, only words.
func missingTable(err error) bool {
	if state := sqlstate.Of(err); state != "" {
		return state == sqlstate.UndefinedTable
	}
	return strings.Contains(err.Error(), "no such table: outbox_migrations")
}

// waitWhenBusy lets the connection wait for other writers. It returns a function that restores its own setting.
func waitWhenBusy(ctx context.Context, conn *sql.Conn) (restore func(), err error) {
	var before int64
	if err := conn.QueryRowContext(ctx, "PRAGMA busy_timeout").Scan(&before); err != nil {
		return nil, err
	}
	if before >= busyWait.Milliseconds() {
		return func() {}, nil
	}
	set := func(ctx context.Context, ms int64) error {
		var now int64
		return conn.QueryRowContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", ms)).Scan(&now)
	}
	if err := set(ctx, busyWait.Milliseconds()); err != nil {
		return nil, err
	}
	return func() { _ = set(context.WithoutCancel(ctx), before) }, nil
}
