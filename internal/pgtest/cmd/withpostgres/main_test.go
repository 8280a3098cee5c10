//go:build unix

package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/outboxmail/outbox/internal/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv("WITHPOSTGRES_UNDER_TEST") == "1" {
		main()
		return
	}
	os.Exit(m.Run())
}

// program returns the command withpostgres with these arguments. By default the command starts a server.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), "WITHPOSTGRES_UNDER_TEST=1", pgtest.EnvServer+"=", pgtest.EnvRequired+"=",
		pgtest.EnvBouncer+"=named, so that none is installed")
	return cmd
}

func code(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	default:
		t.Fatal(err)
		return -1
	}
}

func TestCommandGetsAServer(t *testing.T) {
	c := pgtest.StartForTest(t, pgtest.Options{}) // skips where there is no PostgreSQL
	for _, tt := range []struct{ name, server string }{{"own", ""}, {"given", c.DSN()}} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := program(t, "--", "sh", "-c", `echo "$OUTBOX_TEST_POSTGRES $OUTBOX_TEST_POSTGRES_REQUIRED"; exit 7`)
			cmd.Env = append(cmd.Env, pgtest.EnvServer+"="+tt.server)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if got := code(t, err); got != 7 {
				t.Errorf("exit code %d, want the command's own 7\n%s", got, &stderr)
			}
			dsn, required, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
			if !strings.HasPrefix(dsn, "postgres://") || required != "1" {
				t.Errorf("the command saw %q", out)
			}
			if tt.server != "" && dsn != tt.server {
				t.Errorf("the command saw the server %s, not the given one", dsn)
			}
			if !strings.Contains(stderr.String(), "PostgreSQL tests were run on version ") {
				t.Errorf("the last line is missing:\n%s", &stderr)
			}
			_, err = pgtest.ServerVersion(t.Context(), dsn)
			if gone := err != nil; gone != (tt.server == "") {
				t.Errorf("afterwards the server is gone: %t", gone)
			}
		})
	}
}

func TestSignalsReachTheCommand(t *testing.T) {
	c := pgtest.StartForTest(t, pgtest.Options{})
	for _, tt := range []struct {
		name, script string
		sig          syscall.Signal
		code         int
	}{
		{"handled", `trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done`, syscall.SIGTERM, 9},
		{"fatal", `echo ready; while :; do sleep 0.01; done`, syscall.SIGINT, 128 + int(syscall.SIGINT)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := program(t, "--", "sh", "-c", tt.script)
			cmd.Env = append(cmd.Env, pgtest.EnvServer+"="+c.DSN())
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
				t.Fatalf("the command said %q, %v", line, err)
			}
			if err := cmd.Process.Signal(tt.sig); err != nil {
				t.Fatal(err)
			}
			if got := code(t, cmd.Wait()); got != tt.code {
				t.Errorf("exit code %d, want %d", got, tt.code)
			}
		})
	}
}

func TestBadUse(t *testing.T) {
	c := pgtest.StartForTest(t, pgtest.Options{})
	for _, tt := range []struct {
		name, server string
		args         []string
		code         int
		says         string
	}{
		{"no command", c.DSN(), []string{"--"}, exitUsage, "usage: withpostgres"},
		{"unknown command", c.DSN(), []string{"--", "/no/such/program"}, exitNotStarted, "/no/such/program"},
		{"dead server", "postgres://127.0.0.1:1/x?sslmode=disable", []string{"--", "true"}, exitFailed, "error: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := program(t, tt.args...)
			cmd.Env = append(cmd.Env, pgtest.EnvServer+"="+tt.server)
			out, err := cmd.CombinedOutput()
			if got := code(t, err); got != tt.code || !strings.Contains(string(out), tt.says) {
				t.Errorf("exit code %d, want %d; it said:\n%s", got, tt.code, out)
			}
		})
	}
}

// If PgBouncer is missing and cannot be installed, the command still runs and the last lines say so.
func TestNoBouncer(t *testing.T) {
	c := pgtest.StartForTest(t, pgtest.Options{})
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	for named, says := range map[string]bool{"": true, "/opt/pgbouncer": false} {
		cmd := program(t, "--", sh, "-c", "exit 7")
		cmd.Env = append(cmd.Env, "PATH="+t.TempDir(), pgtest.EnvServer+"="+c.DSN(), pgtest.EnvBouncer+"="+named)
		out, err := cmd.CombinedOutput()
		if got := code(t, err); got != 7 {
			t.Errorf("exit code %d, want the command's own 7", got)
		}
		if said := strings.Contains(string(out), "tests behind PgBouncer were skipped because it is not installed: install pgbouncer, or set "+pgtest.EnvBouncer); said != says {
			t.Errorf("with the program %q it said:\n%s", named, out)
		}
	}
}

func TestForbidServices(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy-rc.d")
	allow, err := forbidServices(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := code(t, exec.CommandContext(t.Context(), path).Run()); got != 101 {
		t.Errorf("the policy answers %d, want 101, which is no", got)
	}
	keep, err := forbidServices(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := keep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("a policy that was there before is gone: %v", err)
	}
	if err := allow(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the policy was left behind: %v", err)
	}
}
