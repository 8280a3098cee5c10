// Package postgres opens PostgreSQL in the way that outbox needs. It is the only package of outbox that links
// github.com/lib/pq.
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

// connectTimeout is how long a connection may take to come about, unless the DSN says otherwise.
const connectTimeout = 10 * time.Second

// database/sql keeps two idle connections, and a dispatcher uses three and more at once, each for a moment: all others would be
// opened anew for every statement, which costs the server more than the statement.
const (
	idleConns = 16
	idleTime  = 5 * time.Minute
)

// errDSN takes the place of what the parsers say, because they quote what they could not read, and that may be a password.
var errDSN = errors.New("open PostgreSQL: the DSN cannot be read: give postgres://user:password@host:port/database?sslmode=… " +
	"with %-encoding in the password, or key=value pairs as libpq takes them")

// Open returns a pool of connections to a PostgreSQL server. The DSN is a URL, postgres://user@host/database?…, or the
// keyword form of libpq; PG* environment variables fill what it leaves out. It does not connect. No error of Open quotes
// the DSN, which may hold a password.
//
// It adds to the DSN, where that does not say otherwise: connect_timeout 10 s; application_name outbox; binary_parameters,
// which sends a statement and its arguments in one round trip and also works behind PgBouncer in transaction mode; and
// sslmode prefer towards this host (loopback or a Unix socket), require towards any other.
//
// The pool keeps 16 idle connections for five minutes; a pool of your own that a dispatcher uses should keep as many as it uses at
// once, where database/sql keeps two.
func Open(dsn string) (*sql.DB, error) {
	cfg, err := config(dsn)
	if err != nil {
		return nil, err
	}
	connector, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("open PostgreSQL: %w", err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxIdleConns(idleConns)
	db.SetConnMaxIdleTime(idleTime)
	return db, nil
}

// config reads a DSN and completes it.
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

// local says whether the host is this one.
func local(host string) bool {
	if host == "" || host == "localhost" || strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}
