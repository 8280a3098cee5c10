package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// event is a line of `go test -json`; see `go doc test2json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build-output
	Test       string
	Output     string
}

// name identifies a test, or a package if test is empty.
type name struct{ pkg, test string }

// summary collects the results for the end of the output.
type summary struct {
	out             io.Writer
	output          map[name][]string // lines of tests and packages that have not ended
	passed          int
	failed, skipped []string
}

// summarise reads the events of a run and writes its report.
func summarise(events io.Reader, out io.Writer) error {
	s := &summary{out: out, output: map[name][]string{}}
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			s.line(line)
		}
		if err == io.EOF {
			s.end()
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the output of go test: %w", err)
		}
	}
}

func (s *summary) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		s.out.Write(line) // not an event: a message of go test itself
		return
	}
	n := name{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		io.WriteString(s.out, e.Output)
	case "output":
		s.output[n] = append(s.output[n], e.Output)
	case "pass":
		s.passedOne(n)
	case "fail":
		s.failedOne(n)
	case "skip":
		s.skippedOne(n)
	}
}

func (s *summary) passedOne(n name) {
	if n.test == "" {
		s.print(n, func(line string) bool { return strings.HasPrefix(line, "ok ") })
	} else {
		s.passed++
	}
	delete(s.output, n)
}

func (s *summary) failedOne(n name) {
	if n.test != "" {
		s.failed = append(s.failed, n.pkg+" "+n.test)
		s.print(n, nil)
		delete(s.output, n)
		return
	}
	// A panic or the time limit cut off the tests that have not ended. Their output says why.
	var cut []string
	for other := range s.output {
		if other.pkg == n.pkg && other.test != "" {
			cut = append(cut, other.test)
		}
	}
	slices.Sort(cut)
	for _, test := range cut {
		s.failed = append(s.failed, n.pkg+" "+test+" (did not end)")
		s.print(name{n.pkg, test}, nil)
		delete(s.output, name{n.pkg, test})
	}
	s.print(n, nil)
	delete(s.output, n)
	if !slices.ContainsFunc(s.failed, func(f string) bool { return strings.HasPrefix(f, n.pkg+" ") }) {
		s.failed = append(s.failed, n.pkg) // it did not compile, or failed outside its tests
	}
}

func (s *summary) skippedOne(n name) {
	if n.test != "" { // else a package without tests
		s.skipped = append(s.skipped, n.pkg+" "+n.test+": "+reason(s.output[n]))
	}
	delete(s.output, n)
}

// print writes the lines of n's output that keep accepts, or all of them if keep is nil.
func (s *summary) print(n name, keep func(string) bool) {
	for _, line := range s.output[n] {
		if keep == nil || keep(line) {
			io.WriteString(s.out, line)
		}
	}
}

var logLine = regexp.MustCompile(`^\s+\S+\.go:\d+: (.*)`)

// reason finds the text that a test passed to Skip.
func reason(output []string) string {
	for _, line := range slices.Backward(output) {
		if m := logLine.FindStringSubmatch(line); m != nil {
			return m[1]
		}
	}
	return "no reason given"
}

func (s *summary) end() {
	fmt.Fprintf(s.out, "\n%d tests passed, %d failed, %d were skipped\n", s.passed, len(s.failed), len(s.skipped))
	for _, f := range s.failed {
		fmt.Fprintln(s.out, "failed: ", f)
	}
	for _, k := range s.skipped {
		fmt.Fprintln(s.out, "skipped:", k)
	}
}
