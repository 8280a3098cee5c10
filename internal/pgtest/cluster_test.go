package pgtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestClusterKeepsItsDataOverRestarts(t *testing.T) {
	c := StartForTest(t, Options{Durable: true, Settings: map[string]string{"max_connections": "33"}})
	dsn := c.DSN()
	dbURL := c.NewDatabase(t)
	db := open(t, dbURL)
	exec1(t, db, "CREATE TABLE things (n int)")

	for i, mode := range []ShutdownMode{Fast, Immediate} {
		exec1(t, db, fmt.Sprintf("INSERT INTO things VALUES (%d)", i))
		if err := c.Restart(t.Context(), mode); err != nil {
			t.Fatalf("restart: %v\n%s", err, c.Log())
		}
		if c.DSN() != dsn {
			t.Fatalf("the URL changed from %s to %s", dsn, c.DSN())
		}
		recovered := strings.Contains(c.Log(), "automatic recovery in progress")
		if want := mode == Immediate; recovered != want {
			t.Errorf("after mode %d: recovery %t, want %t", mode, recovered, want)
		}
		// The connections of the old pool are dead after the restart; a new pool avoids their errors.
		db = open(t, dbURL)
		if n := query[int](t, db, "SELECT count(*) FROM things"); n != i+1 {
			t.Errorf("after mode %d: %d rows, want %d", mode, n, i+1)
		}
	}
	for setting, want := range map[string]string{"max_connections": "33", "fsync": "on", "synchronous_commit": "on"} {
		if got := query[string](t, db, "SHOW "+setting); got != want {
			t.Errorf("%s = %s, want %s", setting, got, want)
		}
	}
}

func TestClusterDownAndUp(t *testing.T) {
	c := StartForTest(t, Options{})
	if err := c.Down(Fast); err != nil {
		t.Fatal(err)
	}
	if _, err := ServerVersion(t.Context(), c.DSN()); err == nil {
		t.Error("the server answers while it is down")
	}
	if err := c.Down(Fast); err != nil {
		t.Errorf("down for the second time: %v", err)
	}
	if err := c.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := ServerVersion(t.Context(), c.DSN()); err != nil {
		t.Errorf("after Up: %v", err)
	}
	if err := c.Up(t.Context()); err == nil {
		t.Error("a server that is up was started again")
	}
}

func TestClusterRefusesStrangers(t *testing.T) {
	c := StartForTest(t, Options{})
	stranger := strings.Replace(c.DSN(), c.password, "guess", 1)
	if _, err := ServerVersion(t.Context(), stranger); err == nil || !strings.Contains(err.Error(), "password") {
		t.Errorf("a connection with a wrong password: %v", err)
	}
}

func TestStopLeavesNothing(t *testing.T) {
	c := StartForTest(t, Options{})
	pid := c.server.cmd.Process.Pid
	for range 2 {
		if err := c.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(c.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
	if alive(pid) {
		t.Errorf("the server %d still runs", pid)
	}
}

func TestStartReportsWhatTheServerSaid(t *testing.T) {
	if _, err := findPrograms(); err != nil {
		t.Skip(err)
	}
	c, err := Start(t.Context(), Options{Settings: map[string]string{"shared_buffers": "nonsense"}})
	if err == nil {
		t.Fatal("a server with a nonsensical setting started", c.Stop())
	}
	if !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("the error does not show the server's words: %v", err)
	}
}

func TestStartGivesUpWithItsContext(t *testing.T) {
	if _, err := findPrograms(); err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c, err := Start(ctx, Options{})
	if err == nil {
		t.Fatal("started with a context that had ended", c.Stop())
	}
}

// envVictim turns the test binary into a program that starts a cluster and waits to be killed.
const envVictim = "OUTBOX_PGTEST_VICTIM"

func victim() {
	c, err := Start(context.Background(), Options{})
	if err != nil {
		fmt.Fprintln(os.Stdout, "error:", err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, c.dir, c.port)
	select {}
}

func TestServerDiesWithItsParent(t *testing.T) {
	if _, err := findPrograms(); err != nil {
		t.Skip(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), envVictim+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	dir, port, ok := strings.Cut(strings.TrimSpace(line), " ")
	if !ok || !filepath.IsAbs(dir) {
		t.Fatalf("the program said %q", line)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()

	// The test is not the parent of these processes, so it polls for their end.
	deadline := time.After(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		_, statErr := os.Stat(dir)
		conn, dialErr := new(net.Dialer).DialContext(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", port))
		if dialErr == nil {
			conn.Close()
		}
		if dialErr != nil && errors.Is(statErr, os.ErrNotExist) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("a minute after its parent the server answers: %t; its folder: %v", dialErr == nil, statErr)
		}
	}
}

func TestNewestFirst(t *testing.T) {
	got := newestFirst([]string{"/usr/lib/postgresql/9.6/bin", "/usr/lib/postgresql/15/bin", "/x/none", "/usr/lib/postgresql/17/bin"})
	want := []string{"/usr/lib/postgresql/17/bin", "/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/9.6/bin", "/x/none"}
	if !slices.Equal(got, want) {
		t.Errorf("newestFirst = %q, want %q", got, want)
	}
}

func TestComplete(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if complete(dir) {
		t.Error("an empty folder passes for PostgreSQL's programs")
	}
	write("initdb", 0o755)
	write("postgres", 0o644)
	if complete(dir) {
		t.Error("a file that cannot be run passes for a program")
	}
	if err := os.Chmod(filepath.Join(dir, "postgres"), 0o755); err != nil {
		t.Fatal(err)
	}
	if !complete(dir) {
		t.Error("a folder with both programs does not pass")
	}
}
