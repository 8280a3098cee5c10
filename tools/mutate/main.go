// Command mutate changes the code in one place at a time and tells which changes no test notices. README.md has examples.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	root, targets, equivalent, results string
	n                                  int
	seed                               uint64
	resume, survivors, list, entries   bool
	at                                 string
	least                              time.Duration
	want                               float64
	names                              []string
}

// errBelow says that the run came to its end, and that the tests notice too little.
var errBelow = errors.New("the tests notice too little")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "mutate: error:", err)
		os.Exit(1)
	}
}

func parse(args []string, errs io.Writer) (options, error) {
	var o options
	set := flag.NewFlagSet("mutate", flag.ContinueOnError)
	set.SetOutput(errs)
	set.StringVar(&o.root, "C", ".", "the `directory` of the module")
	set.StringVar(&o.targets, "targets", "tools/mutate/targets.toml", "the `file` that says what is changed and tested, relative to the module")
	set.StringVar(&o.equivalent, "equivalent", "tools/mutate/equivalent.toml", "the `file` of equivalent mutants, relative to the module; empty for none")
	set.StringVar(&o.results, "results", "bin/mutate.ndjson", "the `file` that gets each result at once, relative to the module")
	set.IntVar(&o.n, "n", 0, "try at most this `number` of mutants of each target, drawn by chance; 0 for all")
	set.Uint64Var(&o.seed, "seed", 1, "the seed of the draw; the draw of a smaller -n is the beginning of a larger one")
	set.BoolVar(&o.resume, "resume", false, "keep the results of the run before, and try the rest")
	set.BoolVar(&o.survivors, "survivors", false, "keep the results of the run before, and try its survivors anew")
	set.StringVar(&o.at, "at", "", "only mutants of these `places`, with commas between them: a file, file:line, or the beginning of a key")
	set.BoolVar(&o.list, "list", false, "list the mutants, and try none")
	set.BoolVar(&o.entries, "entries", false, "write survivors as entries for the file of equivalent mutants")
	set.DurationVar(&o.least, "least", 30*time.Second, "the shortest time limit of a test; five times its usual time, if that is longer")
	set.Float64Var(&o.want, "want", 95, "fail below this score, in `percent`")
	set.Usage = func() {
		fmt.Fprint(errs, "usage: mutate [flags] [target ...]\n\nflags:\n")
		set.PrintDefaults()
	}
	if err := set.Parse(args); err != nil {
		return o, err
	}
	o.names = set.Args()
	if o.n < 0 {
		return o, fmt.Errorf("-n %d: a number of mutants is not negative", o.n)
	}
	if o.resume && o.survivors {
		return o, errors.New("-resume and -survivors exclude each other")
	}
	root, err := filepath.Abs(o.root)
	o.root = root
	return o, err
}

// work is a target with the mutants that are to be tried.
type work struct {
	target  target
	mutants []*mutant
	tally   *tally
}

func run(ctx context.Context, args []string, out, errs *os.File) error {
	o, err := parse(args, errs)
	if err != nil {
		return err
	}
	works, old, err := plan(o)
	if err != nil {
		return err
	}
	if o.list {
		list(out, works, old)
		return nil
	}
	if err := try(ctx, o, works, errs); err != nil {
		return err
	}
	tallies := make([]*tally, len(works))
	for i, w := range works {
		tallies[i] = w.tally
	}
	report(out, tallies, old, o.entries)
	for _, t := range tallies {
		if t.score() < o.want {
			err = errors.Join(err, fmt.Errorf("%s: %w: %.1f%%, want %g%%", t.target, errBelow, t.score(), o.want))
		}
	}
	if len(old) > 0 {
		err = errors.Join(err, fmt.Errorf("%d entries of %s are stale", len(old), o.equivalent))
	}
	return err
}

// plan finds the mutants to try, and the stale entries among those that were judged equivalent.
func plan(o options) ([]work, []equivalent, error) {
	in := func(name string) string {
		if name == "" || filepath.IsAbs(name) {
			return name
		}
		return filepath.Join(o.root, name)
	}
	targets, err := readTargets(in(o.targets))
	if err != nil {
		return nil, nil, err
	}
	if targets, err = chosen(targets, o.names); err != nil {
		return nil, nil, err
	}
	listed, err := readEquivalents(in(o.equivalent))
	if err != nil {
		return nil, nil, err
	}
	var works []work
	var all []*mutant
	for _, t := range targets {
		ms, err := t.mutants(o.root)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, ms...)
		open, same := sortOut(ms, listed)
		w := work{target: t, tally: &tally{target: t.Name, all: len(ms), same: len(same)}}
		w.mutants = draw(o, open)
		works = append(works, w)
	}
	return works, stale(listed, all), nil
}

// draw takes the mutants of a place, orders them by chance, and takes the first n. The place of each depends on the seed and on its
// key alone, so that new code leaves most of a draw as it was.
func draw(o options, ms []*mutant) []*mutant {
	ms = slices.DeleteFunc(slices.Clone(ms), func(m *mutant) bool {
		return o.at != "" && !slices.ContainsFunc(strings.Split(o.at, ","), func(at string) bool {
			return at == m.file || at == m.place() || strings.HasPrefix(m.key(), at)
		})
	})
	place := make(map[*mutant]string, len(ms))
	for _, m := range ms {
		place[m] = hash(strconv.FormatUint(o.seed, 10), m.key())
	}
	slices.SortFunc(ms, func(a, b *mutant) int { return strings.Compare(place[a], place[b]) })
	if o.n > 0 && o.n < len(ms) {
		ms = ms[:o.n]
	}
	return ms
}

func list(out io.Writer, works []work, old []equivalent) {
	for _, w := range works {
		ms := slices.Clone(w.mutants)
		slices.SortStableFunc(ms, func(a, b *mutant) int {
			return cmpPlace(a, b)
		})
		for _, m := range ms {
			fmt.Fprintf(out, "%s  %s  %s: %s\n%s\n", m.place(), m.key(), m.in, m.kind, indent(m.diff()))
		}
		fmt.Fprintf(out, "%s: %d mutants, %d of them listed here, %d equivalent\n", w.target.Name, w.tally.all, len(ms), w.tally.same)
	}
	for _, e := range old {
		fmt.Fprintf(out, "stale: %s  %s\n", e.Key, e.In)
	}
}

func cmpPlace(a, b *mutant) int {
	if c := strings.Compare(a.file, b.file); c != 0 {
		return c
	}
	return a.line - b.line
}

// try runs the tests of all mutants, one mutant after the other.
func try(ctx context.Context, o options, works []work, errs *os.File) (err error) {
	name := o.results
	if !filepath.IsAbs(name) {
		name = filepath.Join(o.root, name)
	}
	results, err := openResults(name, o.resume || o.survivors)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, results.file.Close()) }()
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r := newRunner(o.root, dir, o.least)

	total := 0
	for _, w := range works {
		total += len(w.mutants)
	}
	p := newProgress(errs, total)
	defer p.close()
	for _, w := range works {
		if err := r.prepare(ctx, w.untried(o, results)); err != nil {
			return err
		}
		for _, m := range w.mutants {
			p.begin(m)
			res, known := results.known(w.target.Name, m)
			if o.survivors && !known {
				p.total--
				continue
			}
			if again(o, res, known) {
				tests, err := w.target.tests(o.root, m)
				if err != nil {
					return err
				}
				if res, err = r.try(ctx, m, tests); err != nil {
					return fmt.Errorf("%s (%s): %w", m.place(), m.key(), err)
				}
				res.Target = w.target.Name
				if err := results.write(res); err != nil {
					return err
				}
			}
			w.tally.add(m, res)
			p.end(m, res)
		}
	}
	return nil
}

// again tells whether a mutant with an earlier result is to be tried.
func again(o options, res result, known bool) bool {
	if o.survivors {
		return known && res.Outcome == survived
	}
	return !known
}

// untried returns the mutants that have to be tried.
func (w *work) untried(o options, results *results) []*mutant {
	return slices.DeleteFunc(slices.Clone(w.mutants), func(m *mutant) bool {
		res, known := results.known(w.target.Name, m)
		return !again(o, res, known)
	})
}
