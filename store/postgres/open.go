// Package postgres opens PostgreSQL in the way that outbox needs. It is the only package of outbox that links
// github.com/lib/pq.
package postgres

import (
	"database/sql"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// connectTimeout is how long a connection may take to come about, unless the DSN says otherwise.
const connectTimeout = 10 * time.Second

// Open returns a pool of connections to a PostgreSQL server. The DSN is a URL, postgres://user@host/database?…, or the
// keyword form of libpq; PG* environment variables fill what it leaves out. It does not connect.
//
// It adds to the DSN, where that does not say otherwise: connect_timeout 10 s; application_name outbox; binary_parameters,
// which sends a statement and its arguments in one round trip and also works behind PgBouncer in transaction mode; and
// sslmode prefer towards this host (loopback or a Unix socket), while towards any other lib/pq's own default, require,
// stays.
func Open(dsn string) (*sqlx.DB, error) {
	cfg, err := pq.NewConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("open PostgreSQL: %w", redact(err, dsn))
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	if cfg.FallbackApplicationName == "" {
		cfg.FallbackApplicationName = "outbox"
	}
	if !strings.Contains(dsn, "binary_parameters") {
		cfg.BinaryParameters = true
	}
	if !strings.Contains(dsn, "sslmode") && os.Getenv("PGSSLMODE") == "" && local(cfg.Host) {
		cfg.SSLMode = pq.SSLModePrefer
	}
	connector, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("open PostgreSQL: %w", redact(err, dsn))
	}
	return sqlx.NewDb(sql.OpenDB(connector), "postgres"), nil
}

// local says whether the host is this one.
func local(host string) bool {
	if host == "" || host == "localhost" || strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// redact keeps a password that stands in the DSN out of an error that quotes it.
func redact(err error, dsn string) error {
	text := err.Error()
	if u, parse := url.Parse(dsn); parse == nil && u.User != nil {
		if password, ok := u.User.Password(); ok && password != "" {
			text = strings.ReplaceAll(text, url.QueryEscape(password), "xxxxx")
			text = strings.ReplaceAll(text, password, "xxxxx")
		}
		return fmt.Errorf("%s", text)
	}
	if strings.Contains(text, dsn) || strings.Contains(dsn, "password") {
		return fmt.Errorf("the DSN cannot be read: it is neither a postgres:// URL nor a list of key=value")
	}
	return err
}
