// Command bench measures outbox beside its peers, in the same minute on the same machine, and prints the table of
// docs/benchmarks.md: rates, and the processor time that a message costs the client, the database server and the relay.
//
//	make bench                   # everything
//	go run . -only P1,P2         # some of it
//	go run . -short -only P3     # a trial of seconds
//
// It starts a PostgreSQL of its own, or uses the one that OUTBOX_TEST_POSTGRES names.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"
)

// bench is what the measurements share.
type bench struct {
	ctx     context.Context //nolint:containedctx // the program's own
	dir     string
	server  string
	master  int     // process of the server, 0 if it is on another machine
	seconds float64 // for each of the rounds
	scale   float64 // of the counts of messages
	rounds  int     // turns of each contender; the medians count
	results []result

	databases int
}

func main() {
	only := flag.String("only", "", "comma-separated measurements, such as P1,P6; empty for all")
	seconds := flag.Float64("seconds", 3, "length of a round of each contender")
	scale := flag.Float64("scale", 1, "share of the messages to load, for a trial")
	short := flag.Bool("short", false, "a trial of seconds: one round of 0.2 s, a fiftieth of the messages; its numbers mean nothing")
	profile := flag.String("cpuprofile", "", "file for a CPU profile; the drains of outbox carry the label drain=outbox")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if orders, ok := os.LookupEnv(childEnv); ok {
		if err := drainChild(ctx, orders); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	b := &bench{ctx: ctx, seconds: *seconds, scale: *scale, rounds: 5}
	if *short {
		b.seconds, b.scale, b.rounds = 0.2, 0.02, 1
	}
	err := profiled(*profile, func() error { return b.run(*only) })
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// profiled runs fn and writes the profile of it, if a file is named.
func profiled(name string, fn func() error) (err error) {
	if name == "" {
		return fn()
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return errors.Join(err, f.Close())
	}
	err = fn()
	pprof.StopCPUProfile()
	return errors.Join(err, f.Close())
}

// measurement is one of those of docs/benchmarks.md.
type measurement struct {
	name string
	run  func(*bench) error
}

var measurements = []measurement{
	{"P1", (*bench).enqueuePostgres},
	{"P1b", (*bench).enqueueMany},
	{"P2", (*bench).enqueueSQLite},
	{"P3", (*bench).drainPostgres},
	{"P4", (*bench).drainSQLite},
	{"P5", (*bench).distance},
	{"P6", (*bench).depth},
	{"P6b", (*bench).breadth},
	{"P7", (*bench).latency},
	{"P8", (*bench).memory},
	{"P9", (*bench).idle},
	{"P10", (*bench).fence},
	{"P11", (*bench).fleet},
	{"P12", (*bench).render},
}

// run runs the measurements that are named, or all of them, and prints the table.
func (b *bench) run(only string) (err error) {
	wanted := strings.Split(only, ",")
	for _, name := range wanted {
		if only != "" && !slices.ContainsFunc(measurements, func(m measurement) bool { return m.name == name }) {
			return fmt.Errorf("there is no measurement %q", name)
		}
	}
	if b.dir, err = os.MkdirTemp("", "outbox-bench-"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(b.dir) }()
	var stop func()
	if b.server, stop, err = server(b.ctx); err != nil {
		return err
	}
	defer stop()
	if b.master, err = postmaster(b.ctx, b.server); err != nil {
		return err
	}
	for _, m := range measurements {
		if only != "" && !slices.Contains(wanted, m.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s …\n", m.name)
		if err := m.run(b); errors.Is(err, errNoPostfix) {
			fmt.Fprintf(os.Stderr, "%s is not measured: %v\n", m.name, err)
			continue
		} else if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	trial := ""
	if b.scale != 1 {
		trial = fmt.Sprintf(", a trial with %g of the messages", b.scale)
	}
	fmt.Printf("Measured %s on %d cores (%s/%s, %s), commit %s%s.\n\n", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(),
		runtime.GOOS, runtime.GOARCH, runtime.Version(), commit(b.ctx), trial)
	fmt.Println(head)
	for _, r := range b.results {
		fmt.Println(row(r))
	}
	return nil
}

// share is that part of a count of messages that this run loads.
func (b *bench) share(n int) int { return max(1, int(float64(n)*b.scale)) }

// commit names what was measured.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// contender is one of several ways to do the same work.
type contender struct {
	name string
	work func(ctx context.Context) error // once; called by several goroutines at a time
}

// compare lets contenders take turns for all rounds and returns the numbers of each.
func (b *bench) compare(m meter, goroutines int, contenders ...contender) ([]*figures, error) {
	all := make([]*figures, len(contenders))
	for i := range all {
		all[i] = &figures{meter: m}
	}
	for range b.rounds {
		for i, c := range contenders {
			n := 0
			s, err := m.measure(1, func() (err error) {
				n, err = b.turn(goroutines, c)
				return err
			})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			s.n = n
			all[i].stretches = append(all[i].stretches, s)
		}
	}
	return all, nil
}

// turn has goroutines do the work over and over for a round, and returns how often they did it.
func (b *bench) turn(goroutines int, c contender) (int, error) {
	ctx, cancel := context.WithTimeout(b.ctx, time.Duration(b.seconds*float64(time.Second)))
	defer cancel()
	type outcome struct {
		n   int
		err error
	}
	outcomes := make(chan outcome, goroutines)
	for range goroutines {
		go func() {
			n := 0
			for ctx.Err() == nil {
				if err := c.work(b.ctx); err != nil {
					outcomes <- outcome{n, err}
					return
				}
				n++
			}
			outcomes <- outcome{n, b.ctx.Err()}
		}()
	}
	total := 0
	var failed error
	for range goroutines {
		o := <-outcomes
		total += o.n
		if o.err != nil {
			failed = o.err
		}
	}
	return total, failed
}
