package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"strings"
)

// edit replaces the bytes from start to end of a file with text.
type edit struct {
	start, end int
	text       string
}

func (e edit) apply(src string) string { return src[:e.start] + e.text + src[e.end:] }

// mutant is one change to one file.
type mutant struct {
	file string // relative to the root of the module, with slashes
	line int
	in   string // the function, variable, statement or table that is changed
	kind string
	// built is what the compiler or the database gets. It keeps every name and parameter in use, as in
	// "(true || (term)) && other", so that the mutant is valid. shown is what a reader sees: "other".
	built, shown edit
	switched     *switched // nil if there is no such form
	src          string    // of the file
	code         string    // hash of what `in` names, without comments and layout
	nth          int       // counts equal changes in the same `in`
}

// key identifies the mutant by its content. It stays the same when other parts of the file change.
func (m *mutant) key() string {
	old := m.src[m.shown.start:m.shown.end]
	return hash(m.file, m.in, m.kind, squeeze(old), squeeze(m.shown.text), fmt.Sprint(m.nth), m.code)[:12]
}

// place is where the mutant stands, for people.
func (m *mutant) place() string { return fmt.Sprintf("%s:%d", m.file, m.line) }

// diff returns the lines before and after the change.
func (m *mutant) diff() string {
	start := strings.LastIndexByte(m.src[:m.shown.start], '\n') + 1
	end := len(m.src)
	if i := strings.IndexByte(m.src[m.shown.end:], '\n'); i >= 0 {
		end = m.shown.end + i
	}
	var b strings.Builder
	write := func(sign, text string) {
		for line := range strings.SplitSeq(text, "\n") {
			if strings.TrimSpace(line) != "" {
				b.WriteString(sign + line + "\n")
			}
		}
	}
	write("-", m.src[start:end])
	write("+", m.src[start:m.shown.start]+m.shown.text+m.src[m.shown.end:end])
	return b.String()
}

// number counts equal changes, so that each has a key of its own.
func number(ms []*mutant) []*mutant {
	seen := make(map[string]int)
	for _, m := range ms {
		k := strings.Join([]string{m.in, m.kind, squeeze(m.src[m.shown.start:m.shown.end]), squeeze(m.shown.text)}, "\x00")
		m.nth = seen[k]
		seen[k]++
	}
	return ms
}

// mutantsOf returns every mutant of a file of Go or SQL.
func mutantsOf(file, src string) ([]*mutant, error) {
	if path.Ext(file) == ".sql" {
		return number(sqlMutants(file, src)), nil
	}
	ms, err := goMutants(file, src)
	return number(ms), err
}

func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])
}

// squeeze makes each run of white space one space.
func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }

func lineOf(src string, at int) int { return 1 + strings.Count(src[:at], "\n") }
