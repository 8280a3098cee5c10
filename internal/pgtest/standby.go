package pgtest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// Standby copies the cluster and starts the copy as a standby that follows it. The standby has the same databases and passwords, and a port
// of its own. It answers queries and refuses to write until [Cluster.Promote]. The caller must call Stop.
func (c *Cluster) Standby(ctx context.Context) (*Cluster, error) {
	s := &Cluster{
		programs: c.programs, owner: c.owner, password: c.password, settings: maps.Clone(c.settings), log: &tail{},
	}
	return s, s.make(ctx, func(ctx context.Context) error { return s.copyFrom(ctx, c) })
}

// copyFrom fills the data folder with a copy of a running cluster and makes it a standby of that cluster.
func (c *Cluster) copyFrom(ctx context.Context, primary *Cluster) error {
	cmd := c.prepare(exec.CommandContext(ctx, filepath.Join(c.programs, "pg_basebackup"),
		"-D", c.dataDir(), "-h", "127.0.0.1", "-p", strconv.Itoa(primary.port), "-U", "postgres",
		"-X", "stream", "-c", "fast", "-R", "--no-sync", "--no-password"))
	cmd.Env = append(cmd.Env, "PGPASSWORD="+c.password, "PGSSLMODE=disable")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pg_basebackup failed: %w; it said:\n%s", err, out)
	}
	return nil
}

// StandbyForTest is [Cluster.Standby] for one test. It stops the standby when the test ends, and skips the test if pg_basebackup is not
// installed.
func (c *Cluster) StandbyForTest(tb testing.TB) *Cluster {
	tb.Helper()
	if _, err := os.Stat(filepath.Join(c.programs, "pg_basebackup")); err != nil {
		tb.Skipf("no standby for this test: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	s, err := c.Standby(ctx)
	if err != nil {
		tb.Fatalf("start a standby: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.Stop(); err != nil {
			tb.Errorf("stop the standby: %v", err)
		}
	})
	return s
}

// Promote makes a standby a primary and returns when it takes writes.
func (c *Cluster) Promote() error {
	if err := adminExec(c.DSN(), "SELECT pg_promote()"); err != nil {
		return fmt.Errorf("promote the standby: %w", err)
	}
	return nil
}

// Demote makes the cluster start as a server that only reads. The cluster must be down. It follows no other server.
func (c *Cluster) Demote() error {
	name := filepath.Join(c.dataDir(), "standby.signal")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		return fmt.Errorf("demote the server: %w", err)
	}
	return c.owner.own(name)
}

// Address is the host and port of the server.
func (c *Cluster) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)) }
