// Package pgtest gives tests a real PostgreSQL.
//
// [DSN] creates an empty database for a test on the server in OUTBOX_TEST_POSTGRES. The program cmd/withpostgres starts
// such a server for the duration of a command; `make test` uses it. [StartForTest] starts a server for one test, which
// may restart or kill it.
//
// Servers run the PostgreSQL programs that are installed on the machine. Each has a temporary folder, a free loopback
// port and a random password, and ends with the process that started it.
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

// The environment variables of tests and their runner.
const (
	// EnvServer is the URL of a server, for a user that may create databases.
	EnvServer = "OUTBOX_TEST_POSTGRES"
	// EnvRequired, set to 1, makes tests fail if there is no server. By default they are skipped.
	EnvRequired = "OUTBOX_TEST_POSTGRES_REQUIRED"
	// EnvBouncer is the path of the PgBouncer program. Defaults to the one in PATH.
	EnvBouncer = "OUTBOX_TEST_PGBOUNCER"
)

// adminTimeout is the limit for a statement on the administrator's connection. Creating a database copies files and can
// be slow on a busy machine.
const adminTimeout = time.Minute

// DSN creates an empty database and returns its URL. When the test ends, DSN closes the remaining connections and drops
// the database. Without a server it skips the test, or fails it if OUTBOX_TEST_POSTGRES_REQUIRED=1 is set.
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

// StartForTest starts a server for this test alone and stops it when the test ends. It skips the test if the PostgreSQL
// programs are not installed. It never uses the server in OUTBOX_TEST_POSTGRES, which a test must not take down.
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
	// template0 never has connections, which would block CREATE DATABASE in tests of other processes.
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

// databaseName makes a unique name of at most 63 bytes that contains the name of the test.
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

// adminExec runs one statement on a connection of its own and closes it.
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
