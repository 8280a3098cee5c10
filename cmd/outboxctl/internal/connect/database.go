// Package connect opens the database and the relay that the flags or the environment name.
package connect

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/internal/pgschema"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
	"github.com/outboxmail/outbox/store/sqlite"
)

// The environment variables that are the defaults of --db and --schema.
const (
	EnvDatabase = "OUTBOX_DB"
	EnvSchema   = "OUTBOX_SCHEMA"
)

const databaseForms = "use sqlite:PATH, a path that ends in .db, or postgres://user@host/database"

// Target names the database and the schema that hold the tables.
type Target struct {
	// URL is the URL or path of the database.
	URL string
	// Schema is the PostgreSQL schema that holds the tables. Defaults to the search path.
	Schema string
}

// Database is an open database. It must be closed.
type Database struct {
	SQL     *sql.DB
	Dialect schema.Dialect
	Schema  string // as in Target
	Name    string // for people: the file, or the database and its host, without a password
	Store   *store.Store
	// Watch wakes a dispatcher after a commit; see dispatcher.Config. It is nil for PostgreSQL.
	Watch func(ctx context.Context, wake func()) error
}

// In returns the options of package schema that select the schema of the tables.
func (d *Database) In() []schema.Option {
	if d.Schema == "" {
		return nil
	}
	return []schema.Option{schema.In(d.Schema)}
}

// Close closes the connections.
func (d *Database) Close() error { return d.SQL.Close() }

// address is the parsed URL of a database.
type address struct {
	dialect schema.Dialect
	dsn     string // the file, or the URL of the server
	shown   string // without a password
}

// Missing decides how [Open] treats an SQLite file that does not exist.
type Missing int

const (
	// Refuse returns an error. It is for commands that need an existing database.
	Refuse Missing = iota
	// Create creates the file. It is for commands that set up the database.
	Create
)

// Open opens a database and checks that it answers. It does not check the tables; see [OpenStore]. An error about the
// target has the code [exit.Usage], an error of the database the code [exit.Database].
func Open(ctx context.Context, target Target, missing Missing) (*Database, error) {
	a, err := parse(target.URL)
	if err != nil {
		return nil, err
	}
	if err := CheckSchema(a.dialect, target.Schema); err != nil {
		return nil, err
	}
	var db *Database
	if a.dialect == schema.SQLite {
		db, err = openSQLite(a, missing)
	} else {
		db, err = openPostgres(a, target.Schema)
	}
	if err != nil {
		return nil, err
	}
	db.Name = a.name()
	if db.Schema != "" {
		db.Name += ", schema " + db.Schema
	}
	if err := reach(ctx, db.SQL); err != nil {
		return nil, errors.Join(unreachable(ctx, a, err), db.Close())
	}
	return db, nil
}

// OpenStore opens an existing database like [Open] and checks that its tables have the version of this program.
func OpenStore(ctx context.Context, target Target) (*Database, error) {
	db, err := Open(ctx, target, Refuse)
	if err != nil {
		return nil, err
	}
	if err := db.Store.Check(ctx); err != nil {
		return nil, errors.Join(&exit.Error{Err: err, Code: exit.Database}, db.Close())
	}
	return db, nil
}

// reach runs a query, because opening a connection does not show that the file is an SQLite database.
func reach(ctx context.Context, db *sql.DB) error {
	var one int
	if err := db.QueryRowContext(ctx, "SELECT 1").Scan(&one); err != nil {
		return err
	}
	return nil
}

func unreachable(ctx context.Context, a address, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	hint := "check --db or OUTBOX_DB, and that the server runs and accepts you"
	if a.dialect == schema.SQLite {
		hint = "check --db or OUTBOX_DB: the file must be an SQLite database that you may write to"
	}
	return &exit.Error{Err: fmt.Errorf("cannot reach the database %s: %w", a.shown, err), Hint: hint, Code: exit.Database}
}

func openSQLite(a address, missing Missing) (*Database, error) {
	var opts []sqlite.Option
	if missing == Refuse {
		opts = append(opts, sqlite.Existing())
	}
	db, err := sqlite.Open(a.dsn, opts...)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &exit.Error{
			Err:  fmt.Errorf("there is no database file %s", a.dsn),
			Hint: "`outboxctl migrate up` creates it", Code: exit.Database,
		}
	case err != nil:
		return nil, &exit.Error{Err: err, Code: exit.Database}
	}
	st, err := store.New(db, schema.SQLite)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Database{SQL: db, Dialect: st.Dialect(), Store: st, Watch: sqlite.Watch(db)}, nil
}

// CheckSchema returns an error if name cannot be a schema of the database. SQLite has no schemas. The empty name is always
// valid.
func CheckSchema(d schema.Dialect, name string) error {
	if name == "" {
		return nil
	}
	if d == schema.SQLite {
		return exit.Usagef("leave --schema and OUTBOX_SCHEMA away", "SQLite has no schemas")
	}
	if err := pgschema.Check(name); err != nil {
		return exit.Usagef("give --schema or OUTBOX_SCHEMA the name of a schema of your own", "%w", err)
	}
	return nil
}

func openPostgres(a address, name string) (*Database, error) {
	db, err := postgres.Open(a.dsn)
	if err != nil {
		return nil, &exit.Error{Err: err, Hint: databaseForms, Code: exit.Usage}
	}
	var opts []store.Option
	if name != "" {
		opts = append(opts, store.Schema(name))
	}
	st, err := store.New(db, schema.Postgres, opts...)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Database{SQL: db, Dialect: st.Dialect(), Schema: name, Store: st}, nil
}

// name returns the name that people know the database by.
func (a address) name() string {
	u, err := url.Parse(a.shown)
	if a.dialect == schema.SQLite || err != nil {
		return a.shown + " · sqlite"
	}
	name, host := strings.TrimPrefix(u.Path, "/"), u.Host
	if name == "" {
		name = "the default database"
	}
	if host == "" {
		host = "the default host"
	}
	return name + " on " + host + " · postgres"
}

// parse parses the URL of a database. Errors never quote the URL, because it may hold a password.
func parse(raw string) (address, error) {
	if raw == "" {
		return address{}, exit.Usagef("set OUTBOX_DB or give --db: "+databaseForms, "no database was given")
	}
	if path, ok := strings.CutPrefix(raw, "sqlite:"); ok {
		path = strings.TrimPrefix(path, "//") // other tools write sqlite:///var/lib/app.db
		if path == "" {
			return address{}, exit.Usagef(databaseForms, "the database URL names no file")
		}
		return address{dialect: schema.SQLite, dsn: path, shown: path}, nil
	}
	scheme, _, isURL := strings.Cut(raw, "://")
	switch {
	case scheme == "postgres" && isURL, scheme == "postgresql" && isURL:
		u, err := url.Parse(raw)
		if err != nil {
			return address{}, exit.Usagef("special characters in the password must be percent-encoded",
				"the database URL cannot be read")
		}
		return address{dialect: schema.Postgres, dsn: raw, shown: withoutPassword(u)}, nil
	case isURL:
		return address{}, exit.Usagef(databaseForms, "%s:// is not a database that outboxctl knows", scheme)
	case strings.HasSuffix(raw, ".db"):
		return address{dialect: schema.SQLite, dsn: raw, shown: raw}, nil
	default:
		return address{}, exit.Usagef(databaseForms, "the database URL is in none of the known forms")
	}
}

// withoutPassword returns the scheme, user, host and path of a URL, for error messages.
func withoutPassword(u *url.URL) string {
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	if u.User != nil {
		shown.User = url.User(u.User.Username())
	}
	return shown.String()
}

// Dialect returns the dialect of the database that a URL names. It does not open the database.
func Dialect(rawURL string) (schema.Dialect, error) {
	a, err := parse(rawURL)
	return a.dialect, err
}
