//go:build unix

// Command withpostgres runs a command, such as go test, with a PostgreSQL server for its tests:
//
//	withpostgres -- go test ./...
//
// It starts a server, puts its URL into OUTBOX_TEST_POSTGRES and sets OUTBOX_TEST_POSTGRES_REQUIRED=1. It forwards signals
// to the command, stops the server when the command has ended, and exits with the code of the command. If
// OUTBOX_TEST_POSTGRES is set already, it uses that server.
//
// As root on Debian, it installs missing programs: PostgreSQL, PgBouncer, and others that some tests need. Without
// PostgreSQL the command runs without a server. The last lines on standard error say which server the command had.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/outboxmail/outbox/internal/pgtest"
)

// The exit codes for errors before the command runs, as in a shell.
const (
	exitFailed     = 1
	exitUsage      = 2
	exitNotStarted = 127
)

// startTimeout is the limit for making and starting a cluster, enough for a busy machine.
const startTimeout = 2 * time.Minute

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		sayf("usage: withpostgres -- command [argument ...]")
		os.Exit(exitUsage)
	}
	os.Exit(run(args))
}

// run runs the command with a server and returns the exit code.
func run(args []string) int {
	// From here on, signals go to the command. This program ends when the command ends.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)

	installTools()
	srv, err := findServer()
	if err != nil {
		sayf("error: %v", err)
		return exitFailed
	}
	defer srv.stop()
	noBouncer := "there is no PostgreSQL server"
	if srv.dsn != "" {
		noBouncer = findBouncer()
	}
	code := runCommand(args, srv.environment(), signals)
	if srv.dsn == "" {
		sayf("PostgreSQL tests were skipped because %s", srv.whyNot)
	} else {
		sayf("PostgreSQL tests were run on version %s", srv.version)
	}
	if noBouncer != "" {
		sayf("tests behind PgBouncer were skipped because %s", noBouncer)
	}
	return code
}

// findBouncer looks for the PgBouncer program and installs it if it can. It returns the reason if the program is missing. This is
// not an error, because other systems may leave out the tests with PgBouncer.
func findBouncer() (whyNot string) {
	const program = "pgbouncer"
	found := func() bool {
		_, err := exec.LookPath(program)
		return err == nil || os.Getenv(pgtest.EnvBouncer) != ""
	}
	if found() {
		return ""
	}
	_, err := install(program)
	switch {
	case err != nil:
		return fmt.Sprintf("an attempt to install it failed: %v", err)
	case !found():
		return "it is not installed: install " + program + ", or set " + pgtest.EnvBouncer + " to the path of the program"
	default:
		return ""
	}
}

// server is the PostgreSQL server of the tests.
type server struct {
	dsn, version string
	whyNot       string // the reason if dsn is empty
	stop         func()
}

func (s server) environment() []string {
	if s.dsn == "" {
		return os.Environ()
	}
	return append(os.Environ(), pgtest.EnvServer+"="+s.dsn, pgtest.EnvRequired+"=1")
}

// findServer uses the server that the environment names, or starts one.
func findServer() (server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s := server{dsn: os.Getenv(pgtest.EnvServer), stop: func() {}}
	if s.dsn == "" {
		cluster, err := start(ctx)
		if errors.Is(err, pgtest.ErrNoPrograms) {
			s.whyNot = err.Error()
			return s, nil
		}
		if err != nil {
			return s, err
		}
		s.dsn = cluster.DSN()
		s.stop = func() {
			if err := cluster.Stop(); err != nil {
				sayf("error: %v", err)
			}
		}
	}
	var err error
	if s.version, err = pgtest.ServerVersion(ctx, s.dsn); err != nil {
		s.stop()
		return s, err
	}
	return s, nil
}

// start starts a cluster. It first installs PostgreSQL if that is missing and can be installed.
func start(ctx context.Context) (*pgtest.Cluster, error) {
	cluster, err := pgtest.Start(ctx, pgtest.Options{})
	if !errors.Is(err, pgtest.ErrNoPrograms) {
		return cluster, err
	}
	installed, installErr := install("postgresql")
	if installErr != nil {
		return nil, fmt.Errorf("%w (an attempt to install it failed: %w)", err, installErr)
	}
	if !installed {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout) // installing may have used up ctx
	defer cancel()
	return pgtest.Start(ctx, pgtest.Options{})
}

// runCommand runs the command in a process group of its own. Each signal then reaches the command and its children exactly
// once.
func runCommand(args, env []string, signals <-chan os.Signal) int {
	cmd := exec.Command(args[0], args[1:]...) //nolint:noctx // signals end it, not a deadline
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		sayf("error: %v", err)
		return exitNotStarted
	}
	ended := make(chan struct{})
	forwarded := make(chan struct{})
	go func() {
		defer close(forwarded)
		for {
			select {
			case s := <-signals:
				if sig, ok := s.(syscall.Signal); ok {
					_ = syscall.Kill(-cmd.Process.Pid, sig) // the group may have ended just now
				}
			case <-ended:
				return
			}
		}
	}()
	err := cmd.Wait()
	close(ended)
	<-forwarded
	return exitCode(cmd.ProcessState, err)
}

// exitCode returns the code that a shell would report: the command's own, or 128 plus the number of the signal that ended it.
func exitCode(state *os.ProcessState, err error) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		const signalled = 128
		return signalled + int(status.Signal())
	}
	if err != nil && state.ExitCode() == 0 {
		sayf("error: %v", err)
		return exitFailed
	}
	return state.ExitCode()
}

func sayf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "withpostgres: "+format+"\n", args...)
}
