package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// errNoPostfix says that a measurement needs programs that are not there.
var errNoPostfix = errors.New("smtp-sink and smtp-source are not installed; they come with Postfix, for example Debian's postfix")

// tool finds a program of Postfix in the path or where Debian puts those of the system.
func tool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	path := filepath.Join("/usr/sbin", name)
	if _, err := os.Stat(path); err != nil {
		return "", errNoPostfix
	}
	return path, nil
}

// sink is a relay of Postfix's that takes everything and keeps nothing, in a process of its own.
type sink struct {
	addr string // host:port
	pid  int
	stop func()
}

// startSink starts smtp-sink, which takes as many sessions as anybody here opens.
func startSink(ctx context.Context) (*sink, error) {
	path, err := tool("smtp-sink")
	if err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	args := []string{"-m", "1000", addr, "1000"}
	if os.Getuid() == 0 {
		args = append([]string{"-u", "nobody"}, args...)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	said := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(bufio.NewReader(stderr))
		said <- string(text)
	}()
	s := &sink{addr: addr, pid: cmd.Process.Pid, stop: func() {
		_ = cmd.Process.Kill()
		<-said
		_ = cmd.Wait()
	}}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for tries := 500; ; tries-- {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			return s, conn.Close()
		}
		select {
		case text := <-said:
			said <- ""
			s.stop()
			return nil, fmt.Errorf("smtp-sink ended: %s", text)
		case <-tick.C:
		}
		if tries == 0 || ctx.Err() != nil {
			s.stop()
			return nil, errors.Join(ctx.Err(), fmt.Errorf("smtp-sink does not listen: %w", err))
		}
	}
}

// url names the sink for smtpx.Open.
func (s *sink) url() string { return fmt.Sprintf("smtp://%s?tls=none&conns=%d", s.addr, drainConns) }
