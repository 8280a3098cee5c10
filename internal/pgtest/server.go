package pgtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// server is one run of the postgres program.
type server struct {
	cmd    *exec.Cmd
	ready  chan struct{} // closed when the server accepts connections
	exited chan struct{} // closed when the process has ended and its output is read
}

// startServer starts cmd, reads its log and keeps the last lines in log.
func startServer(cmd *exec.Cmd, log *tail) (*server, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = in, in
	if err := cmd.Start(); err != nil {
		in.Close()
		out.Close()
		return nil, fmt.Errorf("start the PostgreSQL server: %w", err)
	}
	in.Close()
	log.reset()
	s := &server{cmd: cmd, ready: make(chan struct{}), exited: make(chan struct{})}
	read := make(chan struct{})
	go func() {
		defer close(read)
		s.read(out, log)
	}()
	go func() {
		defer close(s.exited)
		_ = cmd.Wait() // how it ended is in its log
		<-read
	}()
	return s, nil
}

// read copies the server's log until every process of the server has ended.
func (s *server) read(out io.ReadCloser, log *tail) {
	defer out.Close()
	var isReady bool
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			log.add(line)
		}
		if !isReady && (strings.Contains(line, "ready to accept connections") ||
			strings.Contains(line, "ready to accept read-only connections")) {
			isReady = true
			close(s.ready)
		}
		if err != nil {
			return
		}
	}
}

// stop sends sig and waits for the server to end. It kills the server after timeout and returns an error then.
func (s *server) stop(sig os.Signal, timeout time.Duration) error {
	if err := s.cmd.Process.Signal(sig); err != nil {
		<-s.exited // it has ended by itself
		return nil
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-s.exited:
		return nil
	case <-timer.C:
		err := s.cmd.Process.Kill()
		<-s.exited
		return errors.Join(fmt.Errorf("the PostgreSQL server did not stop within %v of %v and was killed", timeout, sig), err)
	}
}

// guard is a process that waits for the end of this process. If this process ends without [guard.dismiss], for example by
// SIGKILL, the guard ends the server and removes its files.
type guard struct {
	cmd  *exec.Cmd
	life *os.File // a pipe; the guard holds the other end and sees it close
}

// guardScript takes the folder of the cluster as its first argument. It gives the server ten seconds to end before it
// removes the files.
const guardScript = `read -r _
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" 2>/dev/null
n=0
while [ -n "$pid" ] && [ "$n" -lt 100 ] && kill -0 "$pid" 2>/dev/null; do
	sleep 0.1
	n=$((n + 1))
done
rm -rf -- "$1"`

func startGuard(dir string) (*guard, error) {
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := exec.Command("sh", "-c", guardScript, "guard", dir) //nolint:noctx // it must outlive this process
	cmd.Dir = "/"
	cmd.Stdin = theirs
	detach(cmd)
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start the guard of the PostgreSQL server: %w", err)
	}
	return &guard{cmd: cmd, life: ours}, nil
}

// dismiss ends the guard, which then touches neither the server nor its files.
func (g *guard) dismiss() {
	_ = g.cmd.Process.Signal(syscall.SIGKILL) // it may have ended before
	_ = g.cmd.Wait()
	g.life.Close()
}

// tail keeps the last lines written to it.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (t *tail) add(line string) {
	const kept = 200
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, line)
	if len(t.lines) > kept {
		t.lines = t.lines[1:]
	}
}

func (t *tail) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = nil
}

// String returns the lines in order.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "")
}

func randomBelow(n int) int { return rand.IntN(n) } //nolint:gosec // nothing secret about a port
