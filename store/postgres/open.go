// Package postgres opens PostgreSQL for outbox. It is the only package of outbox that links github.com/lib/pq.
package postgres

import (
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/lib/pq"
)

// connectTimeout bounds the making of a connection, unless the DSN says otherwise.
const connectTimeout = 10 * time.Second

// By default database/sql keeps two idle connections. A dispatcher uses three or more at once, each for a moment. The
// further ones would be opened anew for every statement, which costs the server more than the statement.
const (
	idleConns = 16
	idleTime  = 5 * time.Minute
)

// sessionLife is how long a session is used. A session that only reads learns no other way that its server is no primary any more.
const sessionLife = 10 * time.Minute

// errDSN replaces the errors of the parsers. They quote the text that they could not read, which may be a password.
var errDSN = errors.New("open PostgreSQL: the DSN cannot be read: give postgres://user:password@host:port/database?sslmode=… " +
	"with %-encoding in the password, or key=value pairs as libpq takes them")

// Open returns a pool of connections to a PostgreSQL server. It does not connect. The DSN is a URL,
// postgres://user@host/database?…, or the keyword form of libpq. PG* environment variables fill in what the DSN
// leaves out. No error of Open quotes the DSN, which may hold a password.
//
// Open adds the following settings unless they are given:
//
//   - connect_timeout is 10 s.
//   - application_name is outbox.
//   - binary_parameters is on: a statement and its arguments go out in one round trip. This also works behind
//     PgBouncer in transaction mode.
//   - sslmode is prefer for this host (loopback or a Unix socket) and require for any other.
//
// The pool keeps 16 idle connections for five minutes, and no connection for longer than ten. If you open a pool for a dispatcher
// yourself, let it keep as many as the dispatcher uses at once. The default of database/sql is two.
//
// The pool follows a failover. Once a statement fails because its server only reads, no open connection is used again: the next
// statements connect anew and reach the server that the name in the DSN leads to by then. This also holds for the application's own
// transactions on this pool. A transaction begins in the mode that the server sets: with default_transaction_read_only it does not
// write. Give several hosts and target_session_attrs=read-write in the DSN if no name or proxy follows the primary.
func Open(dsn string) (*sql.DB, error) {
	cfg, err := config(dsn)
	if err != nil {
		return nil, err
	}
	inner, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("open PostgreSQL: %w", err)
	}
	db := sql.OpenDB(&connector{Connector: inner})
	db.SetConnMaxLifetime(sessionLife)
	db.SetMaxIdleConns(idleConns)
	db.SetConnMaxIdleTime(idleTime)
	return db, nil
}

// config parses a DSN and adds the settings that [Open] promises.
func config(dsn string) (pq.Config, error) {
	cfg, err := pq.NewConfig(dsn)
	if err != nil {
		if _, err := pq.NewConfig(""); err != nil {
			return pq.Config{}, fmt.Errorf("open PostgreSQL: a PG* environment variable cannot be read: %w", err)
		}
		return pq.Config{}, errDSN
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	if cfg.ApplicationName == "" {
		cfg.ApplicationName = "outbox"
	}
	if !strings.Contains(dsn, "binary_parameters") {
		cfg.BinaryParameters = true
	}
	if cfg.SSLMode == "" {
		cfg.SSLMode = pq.SSLModeRequire
		if local(cfg.Host) {
			cfg.SSLMode = pq.SSLModePrefer
		}
	}
	return cfg, nil
}

// local reports whether the host is this one.
func local(host string) bool {
	if host == "" || host == "localhost" || strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}
