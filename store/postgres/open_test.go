package postgres_test

import (
	"net"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
)

const password = "s3cr3t-word"

// Whatever is wrong with a DSN, the error does not hold its password.
func TestNoErrorQuotesThePassword(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{
		"postgres://ann:" + password + "@localhost:port/app",
		"postgres://ann:" + password + "@local host/app",
		"postgres://ann:" + password + "/x@localhost/app",
		"postgres://ann:%zz" + password + "@localhost/app",
		"postgres://ann:" + password + "@localhost/app?sslmode=sometimes",
		"postgres://ann:" + password + "@localhost/app?connect_timeout=soon",
		"postgres://localhost/app?password=" + password + "&sslmode=sometimes",
		"host=localhost password=" + password + " sslmode=sometimes",
		"host=localhost password='" + password,
		"host=localhost password=" + password + " port=" + password,
		"mysql://ann:" + password + "@localhost/app",
		"ann:" + password + "@localhost",
	} {
		_, err := postgres.Open(dsn)
		if err == nil {
			t.Errorf("%q is taken", strings.ReplaceAll(dsn, password, "…"))
			continue
		}
		if strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("the error quotes the password: %v", err)
		}
		if !strings.Contains(err.Error(), "postgres://user:password@host:port/database") {
			t.Errorf("the error does not say what to write: %v", err)
		}
	}
}

func TestUnreachableServerIsOneSentence(t *testing.T) {
	t.Parallel()
	// A port that was just free, and that nobody listens on.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := postgres.Open("postgres://ann:" + password + "@" + address + "/app")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	s, err := store.New(db, schema.Postgres)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Check(t.Context())
	if err == nil || !strings.Contains(err.Error(), address) || !strings.Contains(err.Error(), "refused") {
		t.Fatalf("the error is %v, want one that names %s", err, address)
	}
	if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "s3cr3t") {
		t.Fatalf("the error is not one clean sentence: %q", err)
	}
}

func TestWrongPasswordIsNotShown(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	_, rest, ok := strings.Cut(dsn, "@")
	if !ok {
		t.Fatal("the test server's DSN has no user")
	}
	db, err := postgres.Open("postgres://postgres:" + password + "@" + rest)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.PingContext(t.Context()); err == nil || strings.Contains(err.Error(), "s3cr3t") ||
		!strings.Contains(err.Error(), "password authentication failed") {
		t.Fatalf("the error is %v", err)
	}
}

// A connection has the settings that Open promises.
func TestConnectionIsSetUp(t *testing.T) {
	t.Parallel()
	db, err := postgres.Open(pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var name string
	if err := db.QueryRowContext(t.Context(), "SHOW application_name").Scan(&name); err != nil || name != "outbox" {
		t.Errorf("application_name is %q (%v)", name, err)
	}
}
