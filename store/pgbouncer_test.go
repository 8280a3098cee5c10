package store_test

import (
	"bufio"
	"database/sql"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store/postgres"
	"github.com/outboxmail/outbox/store/storetest"
)

// Behind PgBouncer in transaction mode every transaction may run on another connection of the server. Nothing that is prepared
// or set outlives the transaction. All rules hold there, too: with lib/pq as Open sets it up, for tables in a schema that no
// search path leads to, and with pgx when it is told not to prepare statements.
func TestConformanceBehindPgBouncer(t *testing.T) {
	t.Parallel()
	program := os.Getenv(pgtest.EnvBouncer)
	if program == "" {
		var err error
		if program, err = exec.LookPath("pgbouncer"); err != nil {
			t.Skip("no pgbouncer in the path: install it, or set " + pgtest.EnvBouncer)
		}
	}
	server := os.Getenv(pgtest.EnvServer)
	if server == "" {
		t.Skip("no PostgreSQL server for PgBouncer")
	}
	bouncer := startBouncer(t, program, server)
	pgx := func(dsn string) (*sql.DB, error) { return sql.Open("pgx", dsn+"&default_query_exec_mode=exec") }
	for _, test := range []struct {
		name string
		open func(dsn string) (*sql.DB, error)
		opts []storetest.Option
	}{
		{"lib/pq", postgres.Open, []storetest.Option{storetest.Schema("mail")}},
		{"pgx/stdlib", pgx, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, schema.Postgres, func(t *testing.T) *sql.DB {
				t.Helper()
				u, err := url.Parse(pgtest.DSN(t))
				if err != nil {
					t.Fatal(err)
				}
				u.Host = bouncer
				return opened(t, schema.Postgres)(test.open(u.String())).DB
			}, test.opts...)
		})
	}
}

// startBouncer starts PgBouncer in front of the server and returns its address.
func startBouncer(t *testing.T, program, server string) string {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "outbox-pgbouncer-") //nolint:usetesting // other users may not enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "pgbouncer.ini")
	// The pools are small, so that connections change hands all the time.
	text := fmt.Sprintf(`[databases]
* = host=%s port=%s user=%s password=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
max_client_conn = 1000
server_idle_timeout = 2
`, u.Hostname(), u.Port(), u.User.Username(), password, port)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{config}
	if os.Getuid() == 0 { // it refuses to be run by root
		args = []string{"-u", "nobody", config}
	}
	cmd := exec.Command(program, args...)
	words, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready, ended := make(chan struct{}), make(chan struct{})
	var said strings.Builder
	go func() {
		defer close(ended)
		up := false
		for lines := bufio.NewScanner(words); lines.Scan(); {
			if !up {
				said.WriteString(lines.Text() + "\n")
			}
			if !up && strings.Contains(lines.Text(), "process up") {
				up = true
				close(ready)
			}
		}
		_ = cmd.Wait() // how it ended does not matter once it was up
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	select {
	case <-ready:
	case <-ended:
		t.Fatalf("PgBouncer ended at once:\n%s", said.String())
	case <-time.After(time.Minute):
		t.Fatal("PgBouncer does not start")
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
