package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// tally counts the outcomes of a target.
type tally struct {
	target             string
	all, same          int // mutants there are, and those listed as equivalent
	killed, timeouts   int
	invalid            int
	survivors, expired []found // expired: timed out
}

// found is a mutant with its result.
type found struct {
	*mutant
	result
}

func (t *tally) add(m *mutant, r result) {
	switch r.Outcome {
	case killed:
		t.killed++
	case timedOut:
		t.timeouts++
		t.expired = append(t.expired, found{m, r})
	case invalid:
		t.invalid++
	case survived:
		t.survivors = append(t.survivors, found{m, r})
	}
}

// tried is the number of valid mutants that were tried.
func (t *tally) tried() int { return t.killed + t.timeouts + len(t.survivors) }

// score is the share of the mutants that died, in percent: 100 if there was none.
func (t *tally) score() float64 {
	if t.tried() == 0 {
		return 100
	}
	return 100 * float64(t.killed+t.timeouts) / float64(t.tried())
}

// report writes the survivors and the table.
func report(w io.Writer, tallies []*tally, old []equivalent, entries bool) {
	for _, t := range tallies {
		for _, s := range t.survivors {
			if entries {
				entry(w, s.mutant)
				continue
			}
			fmt.Fprintf(w, "%s  %s  %s: %s\n%s\n", s.place(), s.key(), s.in, s.kind, indent(s.diff()))
		}
	}
	for _, t := range tallies {
		for _, s := range t.expired {
			fmt.Fprintf(w, "timed out: %s  %s  %s: %s (%s)\n%s\n", s.place(), s.key(), s.in, s.kind, s.By, indent(s.diff()))
		}
	}
	for _, e := range old {
		fmt.Fprintf(w, "stale: %s  %s\n%s  was judged equivalent: %s\n  The code has changed since. Judge it anew, or remove the entry.\n\n",
			e.Key, e.In, indent(e.Change), e.Reason)
	}
	fmt.Fprintf(w, "%-14s %8s %8s %8s %8s %8s %10s %10s %8s\n",
		"target", "mutants", "tried", "killed", "timeout", "survived", "invalid", "equivalent", "score")
	for _, t := range tallies {
		fmt.Fprintf(w, "%-14s %8d %8d %8d %8d %8d %10d %10d %7.1f%%\n",
			t.target, t.all, t.tried(), t.killed, t.timeouts, len(t.survivors), t.invalid, t.same, t.score())
	}
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n  ") + "\n"
}

// progress shows how far a run is: a bar on a terminal, else one line for each survivor.
type progress struct {
	out            io.Writer
	bar            bool
	total, done    int
	started        time.Time
	dead, survived int
	now            string
}

func newProgress(out *os.File, total int) *progress {
	info, err := out.Stat()
	bar := err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	return &progress{out: out, bar: bar, total: total, started: time.Now()}
}

func (p *progress) begin(m *mutant) {
	p.now = m.place()
	p.draw()
}

func (p *progress) end(m *mutant, r result) {
	p.done++
	switch r.Outcome {
	case killed, timedOut:
		p.dead++
	case survived:
		p.survived++
		if !p.bar {
			fmt.Fprintf(p.out, "%d/%d survived: %s  %s  %s: %s\n", p.done, p.total, m.place(), m.key(), m.in, m.kind)
		}
	case invalid:
	}
	p.draw()
}

func (p *progress) draw() {
	if !p.bar {
		return
	}
	const width = 24
	full := 0
	if p.total > 0 {
		full = width * p.done / p.total
	}
	left := ""
	if p.done > 0 {
		each := time.Since(p.started) / time.Duration(p.done)
		left = fmt.Sprintf(", %v left", (each * time.Duration(p.total-p.done)).Round(time.Second))
	}
	fmt.Fprintf(p.out, "\r\x1b[K[%s%s] %d/%d killed %d, survived %d%s  %s",
		strings.Repeat("#", full), strings.Repeat(".", width-full), p.done, p.total, p.dead, p.survived, left, p.now)
}

func (p *progress) close() {
	if p.bar {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}
