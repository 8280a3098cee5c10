package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// program is the compiled example.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "quickstart-test-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "quickstart")
	out, err := exec.CommandContext(context.Background(), "go", "build", "-o", program, ".").CombinedOutput()
	if err != nil {
		panic(string(out))
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// quickstart runs the program and returns its output and exit code.
func quickstart(t *testing.T, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(append(os.Environ(), "TMPDIR="+t.TempDir()), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// wantLines checks that the lines appear in this order.
func wantLines(t *testing.T, out string, lines ...string) {
	t.Helper()
	rest := out
	for _, line := range lines {
		i := strings.Index(rest, line)
		if i < 0 {
			t.Fatalf("%q is not printed, or not in its place:\n%s", line, out)
		}
		rest = rest[i+len(line):]
	}
}

func TestDefault(t *testing.T) {
	tmp := t.TempDir()
	out, errs, code := quickstart(t, []string{"TMPDIR=" + tmp})
	if code != 0 || errs != "" {
		t.Fatalf("exit code %d, stderr %q", code, errs)
	}
	wantLines(t, out,
		"database  SQLite file in a temporary folder", "relay     demo SMTP server on 127.0.0.1:",
		"order 1001  COMMIT ", "order 1002  ROLLBACK ", "sent 1, deferred 0, failed 0, uncertain 0",
		"What arrived (1)", "over TLS 1.", `signed in as "shop"`, "From:       \"Corner Shop\" <shop@example.com>",
		"To:         \"Ann\" <ann@example.org>", "Subject:    Your order 1001", "@example.com>", "Your teapot is on its way.",
		"order 1002, which was rolled back?", "orders in the database    0", "messages in the database  0",
		"mails at the relay        0", "Its e-mail does not exist")
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
	if strings.Contains(out, "samovar") || strings.Contains(out, "Your order 1002") {
		t.Errorf("the mail of the order that was rolled back is printed:\n%s", out)
	}
}

func TestSQLiteFileIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shop.db")
	for _, number := range []string{"1001", "1002"} {
		out, errs, code := quickstart(t, nil, "-db", path)
		if code != 0 {
			t.Fatalf("exit code %d, stderr %q", code, errs)
		}
		wantLines(t, out, "order "+number+"  COMMIT", "Your order "+number)
	}
}

func TestPostgres(t *testing.T) {
	dsn := pgtest.DSN(t)
	for _, number := range []string{"1001", "1002"} {
		out, errs, code := quickstart(t, nil, "-db", dsn)
		if code != 0 {
			t.Fatalf("exit code %d, stderr %q", code, errs)
		}
		wantLines(t, out, "database  PostgreSQL", "order "+number+"  COMMIT", "sent 1", "Your order "+number, "messages in the database  0")
		if strings.Contains(out, dsn) {
			t.Errorf("the database's URL with its password is printed:\n%s", out)
		}
	}
}

func TestRealRelay(t *testing.T) {
	server := smtptest.New(t, smtptest.Config{User: "app", Password: "s3cret-word"})
	out, errs, code := quickstart(t, nil, "-relay", server.URL(), "-to", "you@example.net", "-from", "shop@example.net")
	if code != 0 {
		t.Fatalf("exit code %d, stderr %q", code, errs)
	}
	wantLines(t, out, "relay     smtp://", "sent 1", "The relay accepted it", "To:         you@example.net", "Subject:    Your order 1001",
		"does not exist")
	if strings.Contains(out+errs, "s3cret-word") {
		t.Errorf("the password is printed:\n%s%s", out, errs)
	}
	messages := server.Messages()
	if len(messages) != 1 || messages[0].From != "shop@example.net" || messages[0].To[0] != "you@example.net" {
		t.Errorf("the relay has %+v", messages)
	}
}

func TestWrongPassword(t *testing.T) {
	server := smtptest.New(t, smtptest.Config{User: "app", Password: "s3cret-word"})
	out, errs, code := quickstart(t, []string{"OUTBOX_RELAY_PASSWORD=wr0ng-word"},
		"-relay", server.URLFor("app", ""), "-to", "you@example.net")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	wantLines(t, errs, "order 1001 is deferred", "535")
	if strings.Contains(out+errs, "wr0ng-word") {
		t.Errorf("the password is printed:\n%s%s", out, errs)
	}
	if n := server.Count(); n != 0 {
		t.Errorf("the relay has %d messages", n)
	}
}

func TestBadInput(t *testing.T) {
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-relay", "smtp://localhost:25"}, 2, "-relay needs -to"},
		{[]string{"-to", "you@example.net"}, 2, "need -relay"},
		{[]string{"now"}, 2, `unexpected argument "now"`},
		{[]string{"-fast"}, 2, "-fast"},
		{[]string{"-h"}, 0, "-relay string"},
		{[]string{"-relay", "http://example.com", "-to", "you@example.net"}, 1, "scheme"},
		{[]string{"-relay", "smtp://localhost:1", "-to", "no address"}, 1, "invalid From"},
		{[]string{"-db", "postgres://127.0.0.1:1/none?sslmode=disable"}, 1, "127.0.0.1:1"},
		{[]string{"-db", "/"}, 1, "is a folder"},
	} {
		out, errs, code := quickstart(t, nil, test.args...)
		if code != test.code || !strings.Contains(errs, test.want) {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", test.args, code, out, errs)
		}
	}
}
