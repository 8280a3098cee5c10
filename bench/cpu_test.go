package main

import (
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"

	_ "github.com/lib/pq" // as the program uses it

	"github.com/outboxmail/outbox/internal/pgtest"
)

// agree says whether two times agree but for what the kernel rounds.
func agree(a, b time.Duration) bool {
	const rounding = 50 * time.Millisecond
	return (a - b).Abs() <= rounding+(a+b)/20
}

// TestProcessTimes compares what /proc says of a child with what the kernel accounts for it when it ends.
func TestProcessTimes(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done; read line")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var word string
	if _, err := fmt.Fscan(stdout, &word); err != nil {
		t.Fatal(err)
	}
	read, err := treeTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	_ = stdin.Close()
	_ = cmd.Wait() // its read fails at the end of the input
	state := cmd.ProcessState
	if accounted := state.UserTime() + state.SystemTime(); !agree(read, accounted) || read < 50*time.Millisecond {
		t.Errorf("/proc says %v; the kernel accounted for %v", read, accounted)
	}
}

// burn uses processor time in this process.
func burn(d time.Duration) {
	for began := processTime(); processTime()-began < d; {
	}
}

// TestMeterTellsProcessesApart works in this process, in the server, and in neither.
func TestMeterTellsProcessesApart(t *testing.T) {
	dsn := pgtest.DSN(t)
	master, err := postmaster(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	if master == 0 {
		t.Skip("the PostgreSQL server runs on another machine or shows nothing of its processes")
	}
	m := meter{server: master}

	const work = 300 * time.Millisecond
	s, err := m.measure(1, func() error { burn(work); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if s.cpu.client < work || s.cpu.client > 2*work {
		t.Errorf("%v of work in this process count as %v of the client", work, s.cpu.client)
	}

	// The connection ends within the stretch. What its process used must not get lost.
	var backend time.Duration
	s, err = m.measure(1, func() error {
		db, err := sql.Open("postgres", dsn)
		if err != nil {
			return err
		}
		db.SetMaxOpenConns(1)
		var pid, n int
		if err := db.QueryRowContext(t.Context(), "SELECT pg_backend_pid()").Scan(&pid); err != nil {
			return err
		}
		for backend < work {
			if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM generate_series(1, 300000) AS g WHERE g % 7 = 0").Scan(&n); err != nil {
				return err
			}
			p, err := readProcess(pid)
			if err != nil {
				return err
			}
			backend = p.own
		}
		if err := db.Close(); err != nil {
			return err
		}
		for { // until the server has seen that it is gone
			if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); os.IsNotExist(err) {
				return nil
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.cpu.server < backend-tick {
		t.Errorf("a process of the server used %v; the server's time is %v", backend, s.cpu.server)
	}
	if s.cpu.client > s.cpu.server/2 {
		t.Errorf("the server worked, and the client's time is %v beside %v", s.cpu.client, s.cpu.server)
	}

	s, err = m.measure(1, func() error { time.Sleep(work); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if s.cpu.client > work/3 || s.cpu.sink != 0 {
		t.Errorf("nothing worked, and the times are %+v", s.cpu)
	}
}

// TestPlausible tells figures that can be right from those that cannot.
func TestPlausible(t *testing.T) {
	used := usage{client: time.Second, server: time.Duration(runtime.NumCPU()) * time.Second}
	if err := plausible(used, time.Second); err == nil {
		t.Errorf("%v in a second are taken for right", used.total())
	}
	if err := plausible(usage{client: time.Second}, time.Second); err != nil {
		t.Error(err)
	}
}
