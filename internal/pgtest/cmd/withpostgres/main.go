//go:build unix

// Command withpostgres runs a command, such as go test, with a PostgreSQL server for its tests:
//
//	withpostgres -- go test ./...
//
// It starts a server of its own and names it in OUTBOX_TEST_POSTGRES, sets OUTBOX_TEST_POSTGRES_REQUIRED=1, hands on
// the signals that it gets, stops the server when the command has ended and exits as the command did. A server that
// OUTBOX_TEST_POSTGRES names already is used as it is. Where PostgreSQL is not installed and cannot be, the command runs
// without a server. It also installs the other programs that tests ask to check what this project writes, where it may.
// The last line on standard error says which of these it was.
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

// The exit codes for what happens before the command can run, as in a shell.
const (
	exitFailed     = 1
	exitUsage      = 2
	exitNotStarted = 127
)

// startTimeout bounds the making and the start of a cluster on a busy machine.
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

// run gives the command its server and returns the code to exit with.
func run(args []string) int {
	// From here on a signal goes to the command, and ends this program only together with it.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)

	installTools()
	srv, err := findServer()
	if err != nil {
		sayf("error: %v", err)
		return exitFailed
	}
	defer srv.stop()
	code := runCommand(args, srv.environment(), signals)
	if srv.dsn == "" {
		sayf("PostgreSQL tests were skipped because %s", srv.whyNot)
	} else {
		sayf("PostgreSQL tests were run on version %s", srv.version)
	}
	return code
}

// server is what the tests get.
type server struct {
	dsn, version string
	whyNot       string // why there is none, where dsn is empty
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

// start starts a cluster, after installing PostgreSQL where that is missing and possible.
func start(ctx context.Context) (*pgtest.Cluster, error) {
	cluster, err := pgtest.Start(ctx, pgtest.Options{})
	if !errors.Is(err, pgtest.ErrNoPrograms) {
		return cluster, err
	}
	installed, installErr := install()
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

// runCommand runs the command in a process group of its own, so that a signal reaches it exactly once, and with it the
// processes that it started.
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

// exitCode is what a shell would report: the command's own code, or 128 and the number of the signal that ended it.
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
