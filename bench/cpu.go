package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// usage is processor time by process.
type usage struct {
	client time.Duration // this program, with the databases that it has in itself
	server time.Duration // all processes of the PostgreSQL server, with those that have ended
	sink   time.Duration // the relay, if it is a process of its own
}

func (u usage) minus(v usage) usage {
	return usage{u.client - v.client, u.server - v.server, u.sink - v.sink}
}

func (u usage) total() time.Duration { return u.client + u.server + u.sink }

// meter reads processor times. A process that is 0 counts as nothing.
type meter struct{ server, sink int }

// read returns what the processes have used since their start.
func (m meter) read() (usage, error) {
	u := usage{client: processTime()}
	var err, sinkErr error
	if m.server != 0 {
		u.server, err = treeTime(m.server)
	}
	if m.sink != 0 {
		u.sink, sinkErr = treeTime(m.sink)
	}
	return u, errors.Join(err, sinkErr)
}

// stretch is a piece of work.
type stretch struct {
	n    int // messages
	took time.Duration
	cpu  usage
}

func (s stretch) rate() float64 { return float64(s.n) / s.took.Seconds() }

// measure runs work for n messages. It fails if its figures are not plausible.
func (m meter) measure(n int, work func() error) (stretch, error) {
	runtime.GC() // what was before is not the work's
	before, err := m.read()
	if err != nil {
		return stretch{}, err
	}
	began := time.Now()
	if err := work(); err != nil {
		return stretch{}, err
	}
	s := stretch{n: n, took: time.Since(began)}
	after, err := m.read()
	if err != nil {
		return stretch{}, err
	}
	s.cpu = after.minus(before)
	return s, plausible(s.cpu, s.took)
}

// plausible returns an error if the processes used more time than the processors have.
func plausible(u usage, took time.Duration) error {
	const slack = 200 * time.Millisecond // the kernel counts in hundredths of a second for each process
	if most := time.Duration(runtime.NumCPU())*took + slack; u.total() > most {
		return fmt.Errorf("%v of processor time in %v on %d processors", u.total(), took, runtime.NumCPU())
	}
	return nil
}

// processTime is the processor time of this process.
func processTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// process is a process as /proc/PID/stat describes it, see proc(5).
type process struct {
	parent int
	own    time.Duration // user and system
	ended  time.Duration // of children that have ended and were waited for
}

// tick is the unit of the times in /proc. Linux shows it as a hundredth of a second on all systems that Go supports.
const tick = 10 * time.Millisecond

func readProcess(pid int) (process, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return process{}, err
	}
	// The name stands in parentheses and may contain anything.
	fields := strings.Fields(string(text)[strings.LastIndexByte(string(text), ')')+1:])
	const parent, user, system, childrenUser, childrenSystem = 1, 11, 12, 13, 14
	if len(fields) <= childrenSystem {
		return process{}, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	var n [5]int
	for i, field := range []int{parent, user, system, childrenUser, childrenSystem} {
		if n[i], err = strconv.Atoi(fields[field]); err != nil {
			return process{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
	}
	return process{parent: n[0], own: time.Duration(n[1]+n[2]) * tick, ended: time.Duration(n[3]+n[4]) * tick}, nil
}

// treeTime is the processor time of a process, of its children, and of those that have ended.
func treeTime(pid int) (time.Duration, error) {
	for {
		before, err := readProcess(pid)
		if err != nil {
			return 0, err
		}
		children, err := childrenTime(pid)
		if err != nil {
			return 0, err
		}
		after, err := readProcess(pid)
		if err != nil {
			return 0, err
		}
		if before.ended == after.ended { // else a child has moved from one to the other
			return after.own + after.ended + children, nil
		}
	}
}

// childrenTime is the processor time of the children that live.
func childrenTime(pid int) (sum time.Duration, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, err := readProcess(child)
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH): // it has just ended
		case err != nil:
			return 0, err
		case p.parent == pid:
			sum += p.own + p.ended
		}
	}
	return sum, nil
}

// postmaster returns the process that all others of a PostgreSQL server are children of, or 0 if the server is on another machine.
func postmaster(ctx context.Context, dsn string) (pid int, err error) {
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var backend int
	var data string
	if err := db.QueryRowContext(ctx, "SELECT pg_backend_pid(), current_setting('data_directory')").Scan(&backend, &data); err != nil {
		return 0, err
	}
	p, err := readProcess(backend)
	if err != nil {
		return 0, nil // no such process here, or no /proc
	}
	// The first line of this file is the process. It shows that the server is on this machine.
	text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return 0, nil // the same
	}
	if first, _, _ := strings.Cut(string(text), "\n"); first != strconv.Itoa(p.parent) {
		return 0, nil
	}
	return p.parent, nil
}
