package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// switched is a form of a Go mutant that can be switched on: its pieces stand in place of the bytes from start to end.
type switched struct {
	start, end int
	pieces     []piece
}

// piece is a text, or what the source has from start to end. "ON" in a text tells whether the mutant is switched on.
type piece struct {
	text       string
	start, end int
}

// switchFile makes mutants choose: the environment says which is on.
const switchFile = `

import "os"

var mutateNumber = os.Getenv("MUTATE_NUMBER")

func mutateOn(number string) bool { return mutateNumber == number }

func mutatePick[T any](on bool, usual, other T) T {
	if on {
		return other
	}
	return usual
}
`

// room is what stands behind each file of SQL, so that a longer one has the same length.
const room = 4096

// batch builds the tests of a package once for many mutants. Go mutants are switched on by the environment. SQL mutants are
// written into a copy of the binary, in the place of the embedded file.
type batch struct {
	r        *runner
	dir      string
	overlay  string
	number   map[*mutant]string // of Go mutants
	padded   map[string]string  // files of SQL, with room
	binaries map[string]string  // by package
}

// newBatch writes an overlay in which the Go mutants of a package are switched off, and files of SQL have room. mutants have one
// directory. Those that cannot be switched stay out.
func (r *runner) newBatch(mutants []*mutant) (*batch, error) {
	dir, err := os.MkdirTemp(r.dir, "batch")
	if err != nil {
		return nil, err
	}
	b := &batch{r: r, dir: dir, number: map[*mutant]string{}, padded: map[string]string{}, binaries: map[string]string{}}
	files := make(map[string][]*mutant)
	for _, m := range mutants {
		switch {
		case path.Ext(m.file) == ".sql":
			b.padded[m.file] = m.src + strings.Repeat("\n", room)
		case m.switched != nil:
			b.number[m] = strconv.Itoa(len(b.number) + 1)
			files[m.file] = append(files[m.file], m)
		}
	}
	replaced := make(map[string]string)
	for file, ms := range files {
		replaced[file] = b.render(ms)
		replaced[path.Join(path.Dir(file), "mutate_switch.go")] = "package " + packageName(ms[0].src) + switchFile
	}
	for file, text := range b.padded {
		replaced[file] = text
	}
	b.overlay, err = r.overlay(dir, replaced)
	return b, err
}

var packageLine = regexp.MustCompile(`(?m)^package (\w+)`)

func packageName(src string) string { return packageLine.FindStringSubmatch(src)[1] }

// render writes a file with all its mutants, each behind its switch. Lines stay where they are.
func (b *batch) render(ms []*mutant) string {
	ms = slices.Clone(ms)
	// The outer ones come first. Of two that stand at the same place, the one with the most pieces is inside, because its pieces
	// are smaller than the place.
	slices.SortStableFunc(ms, func(x, y *mutant) int {
		return cmp.Or(x.switched.start-y.switched.start, y.switched.end-x.switched.end, len(x.switched.pieces)-len(y.switched.pieces))
	})
	var out strings.Builder
	b.write(&out, ms[0].src, 0, len(ms[0].src), ms)
	return out.String()
}

func (b *batch) write(out *strings.Builder, src string, start, end int, ms []*mutant) {
	at := start
	for i, m := range ms {
		s := m.switched
		if s.start < at || s.end > end {
			continue // outside, or a part of one that is written
		}
		out.WriteString(src[at:s.start])
		on := fmt.Sprintf("mutateOn(%q)", b.number[m])
		for _, p := range s.pieces {
			if p.text == "" {
				b.write(out, src, p.start, p.end, ms[i+1:])
			} else {
				out.WriteString(strings.ReplaceAll(p.text, "ON", on))
			}
		}
		at = s.end
	}
	out.WriteString(src[at:end])
}

// holds tells whether the batch has the mutant.
func (b *batch) holds(m *mutant) bool { return b.number[m] != "" || b.padded[m.file] != "" }

// binary returns the test binary of a package without a mutant.
func (b *batch) binary(ctx context.Context, pkg string) (string, error) {
	if file, ok := b.binaries[pkg]; ok {
		return file, nil
	}
	file := filepath.Join(b.dir, fmt.Sprintf("%d.test", len(b.binaries)))
	if output, err := b.r.build(ctx, pkg, file, b.overlay); err != nil {
		return "", &buildError{pkg, output}
	}
	b.binaries[pkg] = file
	return file, nil
}

// with returns a test binary and an environment that have the mutant.
func (b *batch) with(ctx context.Context, m *mutant, pkg, dir string) (binary string, env []string, err error) {
	original, err := b.binary(ctx, pkg)
	if err != nil || b.number[m] != "" {
		return original, []string{"MUTATE_NUMBER=" + b.number[m]}, err
	}
	text, err := os.ReadFile(original)
	if err != nil {
		return "", nil, err
	}
	before, after := []byte(b.padded[m.file]), []byte(m.built.apply(m.src))
	if room := len(before) - len(after); room >= 0 {
		after = append(after, bytes.Repeat([]byte("\n"), room)...)
	} else {
		return "", nil, fmt.Errorf("the mutant %s is too long by %d bytes", m.key(), -room)
	}
	if !bytes.Contains(text, before) {
		return "", nil, fmt.Errorf("the tests of %s do not have %s embedded", pkg, m.file)
	}
	binary = filepath.Join(dir, filepath.Base(original))
	return binary, nil, os.WriteFile(binary, bytes.ReplaceAll(text, before, after), 0o700)
}

// buildError tells that a package does not compile.
type buildError struct{ pkg, output string }

// Error has the output of the compiler.
func (e *buildError) Error() string { return "the tests of " + e.pkg + " do not compile: " + e.output }

// batches prepares batches for mutants, one for each directory. A mutant that does not compile beside the others is in none.
func (r *runner) batches(ctx context.Context, ms []*mutant) ([]*batch, error) {
	dirs := make(map[string][]*mutant)
	for _, m := range ms {
		dirs[path.Dir(m.file)] = append(dirs[path.Dir(m.file)], m)
	}
	var list []*batch
	for dir, ms := range dirs {
		for range 10 {
			b, err := r.newBatch(ms)
			if err != nil {
				return nil, err
			}
			if len(b.number) == 0 {
				list = append(list, b)
				break
			}
			output, err := r.compile(ctx, "./"+dir, b.overlay)
			if err == nil {
				list = append(list, b)
				break
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			kept := slices.DeleteFunc(slices.Clone(ms), func(m *mutant) bool {
				return m.switched != nil && strings.Contains(output, fmt.Sprintf("%s:%d:", path.Base(m.file), m.line))
			})
			if len(kept) == len(ms) {
				break // each is compiled alone
			}
			ms = kept
		}
	}
	return list, nil
}
