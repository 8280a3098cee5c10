// Command bench measures outbox beside its peers, in the same minute on the same machine, and prints the tables of
// docs/benchmarks.md. Every result is a ratio or a count; the bars are those that the project set itself.
//
//	make bench                 # everything
//	go run . -only P1,P2       # some of it
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

// result is one line of the table.
type result struct {
	work    string
	numbers string
	ratio   string
	bar     string
	met     bool
}

// bench is what the measurements share.
type bench struct {
	ctx     context.Context //nolint:containedctx // the program's own
	dir     string
	server  string
	seconds float64 // for each of the rounds
	scale   float64 // of the counts of messages
	results []result

	databases int
}

// report adds a line and prints it at once.
func (b *bench) report(r result) {
	b.results = append(b.results, r)
	fmt.Fprintln(os.Stderr, row(r))
}

// noBar is the bar of a result that is there for orientation.
const noBar = "–"

func row(r result) string {
	met := "yes"
	switch {
	case r.bar == noBar:
		met = noBar
	case !r.met:
		met = "**no**"
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s |", r.work, r.numbers, r.ratio, r.bar, met)
}

func main() {
	only := flag.String("only", "", "comma-separated measurements, such as P1,P6; empty for all")
	seconds := flag.Float64("seconds", 3, "length of a round of each contender")
	scale := flag.Float64("scale", 1, "share of the messages to load, for a trial")
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
	err := profiled(*profile, func() error { return run(ctx, *only, *seconds, *scale) })
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

func run(ctx context.Context, only string, seconds, scale float64) error {
	dir, err := os.MkdirTemp("", "outbox-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	dsn, stop, err := server(ctx)
	if err != nil {
		return err
	}
	defer stop()
	b := &bench{ctx: ctx, dir: dir, server: dsn, seconds: seconds, scale: scale}
	for _, m := range []struct {
		name string
		run  func(*bench) error
	}{
		{"P1", (*bench).enqueuePostgres},
		{"P2", (*bench).enqueueSQLite},
		{"P3", (*bench).drainPostgres},
		{"P4", (*bench).drainSQLite},
		{"P5", (*bench).distance},
		{"P6", (*bench).depth},
		{"P7", (*bench).latency},
		{"P8", (*bench).memory},
		{"P9", (*bench).idle},
		{"P10", (*bench).fence},
		{"P11", (*bench).fleet},
	} {
		if only != "" && !slices.Contains(strings.Split(only, ","), m.name) {
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
	if scale != 1 {
		trial = fmt.Sprintf(", a trial with %g of the messages", scale)
	}
	fmt.Printf("Measured %s on %d cores (%s/%s, %s), commit %s%s.\n\n", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(),
		runtime.GOOS, runtime.GOARCH, runtime.Version(), commit(ctx), trial)
	fmt.Println("| work | numbers | ratio | bar | met |\n|---|---|---|---|---|")
	for _, r := range b.results {
		fmt.Println(row(r))
	}
	return nil
}

// share is that part of a count of messages that this run loads.
func (b *bench) share(n int) int { return max(1, int(float64(n)*b.scale)) }

// median sorts the rates and returns the middle one.
func median(rates []float64) float64 {
	slices.Sort(rates)
	return rates[len(rates)/2]
}

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

// rounds is how often each contender has its turn; the median of the rates counts.
const rounds = 5

// compare lets contenders take turns and returns how often each did its work in a second.
func (b *bench) compare(goroutines int, contenders ...contender) ([]float64, error) {
	rates := make([][]float64, len(contenders))
	for range rounds {
		for i, c := range contenders {
			rate, err := b.rate(goroutines, c)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			rates[i] = append(rates[i], rate)
		}
	}
	medians := make([]float64, len(contenders))
	for i, list := range rates {
		medians[i] = median(list)
	}
	return medians, nil
}

// rate has goroutines do the work over and over for a round.
func (b *bench) rate(goroutines int, c contender) (float64, error) {
	ctx, cancel := context.WithTimeout(b.ctx, time.Duration(b.seconds*float64(time.Second)))
	defer cancel()
	type outcome struct {
		n   int
		err error
	}
	outcomes := make(chan outcome, goroutines)
	began := time.Now()
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
	return float64(total) / time.Since(began).Seconds(), failed
}
