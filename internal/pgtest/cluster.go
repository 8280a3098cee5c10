package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopTimeout is the time a server has to stop before it is killed.
const stopTimeout = 30 * time.Second

// Options configures a [Cluster]. With the zero value, the server is fast and may lose its last commits when it fails.
type Options struct {
	// Durable makes the server write each commit to the disk, as in production. Defaults to false: commits do not wait for
	// the disk, and an [Immediate] shutdown loses the last ones. A test with such a shutdown sets synchronous_commit in
	// Settings.
	Durable bool
	// Settings holds further settings of the server, by their names in postgresql.conf. They override those of this package.
	Settings map[string]string
}

// ShutdownMode is the way to take the server down.
type ShutdownMode int

const (
	// Fast ends every connection, rolls back open transactions and writes everything to disk.
	Fast ShutdownMode = iota
	// Immediate stops the server like a crash. The next start recovers from the log.
	Immediate
)

// Cluster is a private PostgreSQL server. Its methods are safe for concurrent use.
type Cluster struct {
	programs string
	dir      string
	owner    *owner
	port     int
	password string
	settings map[string]string
	log      *tail
	guard    *guard

	mu     sync.Mutex
	server *server // nil while the server is down
}

// Start makes a new cluster and starts its server. It returns when the server accepts connections. If ctx ends before
// that, nothing keeps running. The caller must call [Cluster.Stop]. If the process dies first, the server still ends and
// its files are removed.
//
// PostgreSQL refuses to run as root. When root calls Start, the server runs as the user postgres, or else as nobody.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	programs, err := findPrograms()
	if err != nil {
		return nil, err
	}
	owner, err := serverOwner()
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		programs: programs, owner: owner, password: rand.Text(),
		settings: serverSettings(opts), log: &tail{},
	}
	return c, c.make(ctx, c.initdb)
}

// make makes the folder, lets fill put the data into it and starts the server. On an error nothing is left.
func (c *Cluster) make(ctx context.Context, fill func(ctx context.Context) error) (err error) {
	if err := c.makeFolder(); err != nil {
		return err
	}
	if c.guard, err = startGuard(c.dir); err != nil {
		return errors.Join(err, os.RemoveAll(c.dir))
	}
	if err := fill(ctx); err != nil {
		return errors.Join(err, c.Stop())
	}
	if err := c.firstUp(ctx); err != nil {
		return errors.Join(err, c.Stop())
	}
	return nil
}

// DSN returns the URL of the server for its superuser. A restart does not change the URL.
func (c *Cluster) DSN() string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword("postgres", c.password),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)),
		Path:     "/postgres",
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Log returns the last lines that the server wrote.
func (c *Cluster) Log() string { return c.log.String() }

// Up starts the server again after [Cluster.Down] and returns when it accepts connections.
func (c *Cluster) Up(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server != nil {
		return errors.New("the server is up already")
	}
	return c.up(ctx)
}

// Down takes the server down, keeps its data, and returns when the server has ended.
func (c *Cluster) Down(mode ShutdownMode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.down(mode)
}

// Restart takes the server down and starts it again.
func (c *Cluster) Restart(ctx context.Context, mode ShutdownMode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.down(mode); err != nil {
		return err
	}
	return c.up(ctx)
}

// Stop ends the server and removes its files. Further calls do nothing.
func (c *Cluster) Stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.down(Immediate)
	c.guard.dismiss()
	return errors.Join(err, os.RemoveAll(c.dir))
}

// down takes the server down. The caller holds c.mu.
func (c *Cluster) down(mode ShutdownMode) error {
	if c.server == nil {
		return nil
	}
	sig := syscall.SIGINT
	if mode == Immediate {
		sig = syscall.SIGQUIT
	}
	err := c.server.stop(sig, stopTimeout)
	c.server = nil
	return err
}

// firstUp starts the server on a free port. If another process takes the port before the server starts, firstUp chooses
// another one.
func (c *Cluster) firstUp(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	const choices = 5
	var err error
	for range choices {
		if c.port, err = freePort(ctx); err != nil {
			return err
		}
		if err = c.up(ctx); err == nil || !strings.Contains(c.log.String(), "Address already in use") {
			return err
		}
	}
	return err
}

// up starts the server. The caller holds c.mu.
func (c *Cluster) up(ctx context.Context) error {
	args := []string{"-D", c.dataDir(), "-c", "port=" + strconv.Itoa(c.port)}
	for _, name := range slices.Sorted(maps.Keys(c.settings)) {
		args = append(args, "-c", name+"="+c.settings[name])
	}
	//nolint:noctx // the server outlives ctx, which bounds its start alone
	srv, err := startServer(c.prepare(exec.Command(filepath.Join(c.programs, "postgres"), args...)), c.log)
	if err != nil {
		return err
	}
	select {
	case <-srv.ready:
		c.server = srv
		return nil
	case <-srv.exited:
		return fmt.Errorf("the PostgreSQL server ended while it started; it said:\n%s", c.log)
	case <-ctx.Done():
		return errors.Join(
			fmt.Errorf("the PostgreSQL server did not start in time: %w", context.Cause(ctx)),
			srv.stop(syscall.SIGQUIT, stopTimeout))
	}
}

// initdb creates the files of the cluster. Connections need a password, which keeps other users of the machine from
// becoming superuser of the database.
func (c *Cluster) initdb(ctx context.Context) error {
	passwordFile := filepath.Join(c.dir, "password")
	if err := os.WriteFile(passwordFile, []byte(c.password+"\n"), 0o600); err != nil {
		return err
	}
	if err := c.owner.own(passwordFile); err != nil {
		return err
	}
	cmd := c.prepare(exec.CommandContext(ctx, filepath.Join(c.programs, "initdb"),
		"-D", c.dataDir(), "-U", "postgres", "--pwfile", passwordFile, "--auth-local=reject", "--auth-host=password",
		"--encoding=UTF8", "--locale=C", "--no-sync"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb failed: %w; it said:\n%s", err, out)
	}
	return os.Remove(passwordFile)
}

func (c *Cluster) dataDir() string { return filepath.Join(c.dir, "data") }

// prepare makes cmd run as the owner of the cluster. It shields cmd from the terminal's signals and from the PostgreSQL
// settings in the caller's environment.
func (c *Cluster) prepare(cmd *exec.Cmd) *exec.Cmd {
	cmd.Dir = c.dir
	cmd.Env = []string{"LC_ALL=C"} // in English, because this package reads the server's messages
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PG") && !strings.HasPrefix(v, "LC_") && !strings.HasPrefix(v, "LANG") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	detach(cmd)
	c.owner.run(cmd)
	return cmd
}

// makeFolder makes the folder of the cluster in a place that the owner of the server can reach.
func (c *Cluster) makeFolder() error {
	var failed []error
	for _, base := range []string{os.TempDir(), "/tmp", "/var/tmp"} {
		if err := c.owner.canReach(base); err != nil {
			failed = append(failed, err)
			continue
		}
		dir, err := os.MkdirTemp(base, "outbox-pgtest-")
		if err != nil {
			failed = append(failed, err)
			continue
		}
		c.dir = dir
		return c.owner.own(dir)
	}
	return fmt.Errorf("no folder for a PostgreSQL cluster: %w", errors.Join(failed...))
}

func serverSettings(opts Options) map[string]string {
	s := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": "",
		"max_connections":         "200",
		"shared_buffers":          "64MB",
		// An unusual time zone makes tests fail if code depends on the server's zone.
		"timezone": "Asia/Kathmandu",
	}
	if !opts.Durable {
		s["fsync"], s["synchronous_commit"], s["full_page_writes"] = "off", "off", "off"
	}
	maps.Copy(s, opts.Settings)
	return s
}

// freePort finds a free loopback port below the range of ports for outgoing connections. Such a port stays free during a
// restart.
func freePort(ctx context.Context) (int, error) {
	const lowest, highest, tries = 20000, 32000, 100
	var listener net.ListenConfig
	var lastErr error
	for range tries {
		port := lowest + randomBelow(highest-lowest)
		l, err := listener.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			lastErr = err
			continue
		}
		return port, l.Close()
	}
	return 0, fmt.Errorf("no free loopback port for a PostgreSQL server: %w", lastErr)
}
