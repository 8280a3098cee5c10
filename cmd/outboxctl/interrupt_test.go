package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/connect"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// outboxctl returns a command that runs the program with arguments.
func outboxctl(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Args = append([]string{"outboxctl"}, args...) // TestMain runs the program of this name
	return cmd
}

// An interrupted flush exits with 130. The next flush finds the message that was being sent.
func TestInterruptedFlush(t *testing.T) {
	ctx := t.Context()
	url := "sqlite:" + filepath.Join(t.TempDir(), "app.db")
	db, err := connect.Open(ctx, connect.Target{URL: url}, connect.Create)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := schema.Migrate(ctx, db.SQL, db.Dialect); err != nil {
		t.Fatal(err)
	}
	tx, err := db.SQL.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := outbox.Enqueue(ctx, tx, &outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.net"}}, Text: "t",
	})
	if err = errors.Join(err, tx.Commit()); err != nil {
		t.Fatal(err)
	}

	reached := make(chan struct{})
	reach := sync.OnceFunc(func() { close(reached) })
	srv := smtptest.New(t, smtptest.Config{Hook: func(ctx context.Context, e smtptest.Event) smtptest.Action {
		if e.Stage == smtptest.StageMail {
			reach()
			<-ctx.Done() // sends nothing until the test ends
		}
		return smtptest.Action{}
	}})
	cmd := outboxctl(t, "flush", "--db", url, "--relay", srv.URL(), "--grace", "10ms")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-reached
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	var failed *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &failed) || failed.ExitCode() != exit.Interrupted {
		t.Errorf("it ended with %v, want exit code %d", err, exit.Interrupted)
	}
	if !strings.Contains(stderr.String(), "outboxctl: error: interrupted\n") {
		t.Errorf("it said %q", &stderr)
	}
	m, err := db.Store.Get(ctx, receipt.ID)
	if err != nil {
		t.Fatal(err)
	}
	if d := m.Deliveries[0]; d.State != outbox.StateQueued || d.Attempts != 0 {
		t.Errorf("the delivery is %s after %d attempts, want queued after none", d.State, d.Attempts)
	}
}
