// Package pgtest gives tests a real PostgreSQL.
//
// [DSN] hands a test an empty database of its own on the server that OUTBOX_TEST_POSTGRES names. The program
// cmd/withpostgres, which `make test` uses, starts such a server for the time of a command. [StartForTest] gives a test
// a whole server of its own, to be restarted or killed.
//
// Servers are started from the PostgreSQL programs that are installed on the machine, in a temporary folder, on a
// loopback port that was free, with a random password. They die with the process that started them.
package pgtest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
)

// The environment variables that tests and their runner agree on.
const (
	// EnvServer holds the URL of an administrator's connection to a server on which tests may create databases.
	EnvServer = "OUTBOX_TEST_POSTGRES"
	// EnvRequired, set to 1, makes a test that finds no server fail instead of being skipped.
	EnvRequired = "OUTBOX_TEST_POSTGRES_REQUIRED"
	// EnvBouncer names the program of PgBouncer where it is not in the path.
	EnvBouncer = "OUTBOX_TEST_PGBOUNCER"
)

// adminTimeout bounds what a test does on the administrator's connection. Creating a database copies files, which can
// take a while on a busy machine.
const adminTimeout = time.Minute

// DSN creates an empty database and returns the URL of a connection to it. The database is dropped when the test ends,
// together with the connections that are still open. Without a server the test is skipped, or fails where
// OUTBOX_TEST_POSTGRES_REQUIRED=1 says that there must be one.
func DSN(tb testing.TB) string {
	tb.Helper()
	admin := os.Getenv(EnvServer)
	if admin == "" {
		const sentence = "no PostgreSQL for this test: run `make test`, which starts a server, or set " + EnvServer +
			" to the URL of one on which databases may be created"
		if os.Getenv(EnvRequired) == "1" {
			tb.Fatal(sentence)
		}
		tb.Skip(sentence)
	}
	return newDatabase(tb, admin)
}

// StartForTest starts a server for this test alone and stops it when the test ends. Where the PostgreSQL programs are not
// installed the test is skipped, even if OUTBOX_TEST_POSTGRES names a server elsewhere, which a test must not take down.
func StartForTest(tb testing.TB, opts Options) *Cluster {
	tb.Helper()
	if _, err := findPrograms(); err != nil {
		tb.Skip("no PostgreSQL server for this test: " + err.Error())
	}
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	c, err := Start(ctx, opts)
	if err != nil {
		tb.Fatalf("start a PostgreSQL server: %v", err)
	}
	tb.Cleanup(func() {
		if err := c.Stop(); err != nil {
			tb.Errorf("stop the PostgreSQL server: %v", err)
		}
		if tb.Failed() {
			tb.Logf("last words of the PostgreSQL server:\n%s", c.Log())
		}
	})
	return c
}

// NewDatabase is [DSN] on the server c.
func (c *Cluster) NewDatabase(tb testing.TB) string {
	tb.Helper()
	return newDatabase(tb, c.DSN())
}

func newDatabase(tb testing.TB, admin string) string {
	tb.Helper()
	u, err := url.Parse(admin)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		tb.Fatalf("%s is not the URL of a PostgreSQL server: it must read postgres://user:password@host:port/database", EnvServer)
	}
	name := databaseName(tb.Name())
	// template0 has no connections of its own, so that tests in other processes cannot get in each other's way.
	if err := adminExec(admin, "CREATE DATABASE "+pq.QuoteIdentifier(name)+" TEMPLATE template0 ENCODING 'UTF8'"); err != nil {
		tb.Fatalf("create a database for the test: %v", err)
	}
	tb.Cleanup(func() {
		if err := adminExec(admin, "DROP DATABASE IF EXISTS "+pq.QuoteIdentifier(name)+" WITH (FORCE)"); err != nil {
			tb.Errorf("drop the database of the test: %v", err)
		}
	})
	u.Path = "/" + name
	return u.String()
}

// databaseName makes a name that is unique and says which test it belongs to, within PostgreSQL's 63 bytes.
func databaseName(test string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		default:
			return '_'
		}
	}, test)
	return "outbox_" + clean[:min(len(clean), 35)] + "_" + strings.ToLower(rand.Text()[:16])
}

// adminExec runs one statement on a connection that lives only as long as the statement.
func adminExec(dsn, statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, statement); err != nil {
		return err
	}
	return nil
}

// ServerVersion asks the server behind dsn for its version, such as "15.14 (Debian 15.14-0+deb12u1)".
func ServerVersion(ctx context.Context, dsn string) (string, error) {
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		return "", err
	}
	defer db.Close()
	var version string
	if err := db.QueryRowContext(ctx, "SHOW server_version").Scan(&version); err != nil {
		return "", fmt.Errorf("ask the PostgreSQL server for its version: %w", err)
	}
	return version, nil
}
