package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// result is a line of the table: a contender, or a number of outbox's that has no contender.
type result struct {
	work    string
	who     string   // the contender
	figures *figures // its rate and processor times, if they were measured
	more    string   // other numbers
	ratio   string
	bar     string // empty for none
	met     bool
}

const (
	ours = "outbox"
	none = "–"
)

// head is the head of the table.
const head = "| work | contender | a second | client µs | server µs | relay µs | more | ratio | bar | met |\n" +
	"|---|---|---|---|---|---|---|---|---|---|"

func row(r result) string {
	cells := []string{r.work, orNone(r.who), none, none, none, none, orNone(r.more), orNone(r.ratio), orNone(r.bar), none}
	if r.figures != nil {
		copy(cells[2:], r.figures.cells())
	}
	if r.bar != "" {
		cells[9] = "yes"
		if !r.met {
			cells[9] = "**no**"
		}
	}
	return "| " + strings.Join(cells, " | ") + " |"
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}

// report adds lines and prints them at once.
func (b *bench) report(lines ...result) {
	for _, r := range lines {
		b.results = append(b.results, r)
		fmt.Fprintln(os.Stderr, row(r))
	}
}

// figures collects the stretches of a contender. Each number is the median over the rounds.
type figures struct {
	meter     meter
	stretches []stretch
}

// add runs work for n messages and keeps the numbers.
func (f *figures) add(n int, work func() error) error {
	s, err := f.meter.measure(n, work)
	if err != nil {
		return err
	}
	f.stretches = append(f.stretches, s)
	return nil
}

func (f *figures) median(value func(s stretch) float64) float64 {
	values := make([]float64, len(f.stretches))
	for i, s := range f.stretches {
		values[i] = value(s)
	}
	return median(values)
}

// rate is in messages a second.
func (f *figures) rate() float64 { return f.median(stretch.rate) }

// cpu is the processor time of client and server for a message, without the relay's.
func (f *figures) cpu() time.Duration {
	return time.Duration(f.median(func(s stretch) float64 { return float64(s.cpu.client+s.cpu.server) / float64(s.n) }))
}

// server is the processor time of the server for a message.
func (f *figures) server() time.Duration {
	return time.Duration(f.median(func(s stretch) float64 { return float64(s.cpu.server) / float64(s.n) }))
}

// cells returns the rate and the processor times of a message.
func (f *figures) cells() []string {
	micros := func(measured bool, of func(u usage) time.Duration) string {
		if !measured {
			return none
		}
		return fmt.Sprintf("%.0f", f.median(func(s stretch) float64 { return float64(of(s.cpu)) / float64(s.n) })/float64(time.Microsecond))
	}
	return []string{
		fmt.Sprintf("%.0f", f.rate()),
		micros(true, func(u usage) time.Duration { return u.client }),
		micros(f.meter.server != 0, func(u usage) time.Duration { return u.server }),
		micros(f.meter.sink != 0, func(u usage) time.Duration { return u.sink }),
	}
}

// median sorts the values and returns the middle one.
func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// times is a ratio as the table shows it.
func times(x float64) string { return fmt.Sprintf("%.2f ×", x) }
