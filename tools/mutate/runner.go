package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// outcome is what became of a mutant.
type outcome string

const (
	killed   outcome = "killed"
	survived outcome = "survived"
	timedOut outcome = "timed out" // counts as killed
	invalid  outcome = "invalid"   // does not compile, or is no SQL; counts as nothing
)

// result is a line of the file of results.
type result struct {
	Target  string  `json:"target"`
	Key     string  `json:"key"`
	Place   string  `json:"place"`
	Outcome outcome `json:"outcome"`
	By      string  `json:"by,omitempty"` // the first test that failed, or why the mutant is invalid
	Seconds float64 `json:"seconds"`
}

// runner builds and runs tests. Mutants reach the compiler as an overlay: no file of the module is touched.
type runner struct {
	root, dir string                   // of the module; of temporary files
	least     time.Duration            // the shortest time limit of a test
	baseline  map[string]time.Duration // of tests without a mutant
	original  map[string]string        // test binaries without a mutant
	prepared  []*batch
}

func newRunner(root, dir string, least time.Duration) *runner {
	return &runner{root: root, dir: dir, least: least, baseline: map[string]time.Duration{}, original: map[string]string{}}
}

// prepare builds the mutants together that can be. The tests without a mutant are run anew for them.
func (r *runner) prepare(ctx context.Context, ms []*mutant) (err error) {
	r.baseline, r.original = map[string]time.Duration{}, map[string]string{}
	r.prepared, err = r.batches(ctx, ms)
	return err
}

// try runs the tests of a mutant until one fails.
func (r *runner) try(ctx context.Context, m *mutant, tests []test) (result, error) {
	started := time.Now()
	res := result{Key: m.key(), Place: m.place(), Outcome: survived}
	dir, err := os.MkdirTemp(r.dir, "mutant")
	if err != nil {
		return res, err
	}
	defer os.RemoveAll(dir)
	built := make(map[string]string)
	overlay := ""
	for _, t := range tests {
		limit, err := r.limit(ctx, m, t)
		if err != nil {
			return res, err
		}
		binary, env := built[t.pkg], []string(nil)
		if b := r.batch(m); b != nil {
			if binary, env, err = b.with(ctx, m, t.pkg, dir); err != nil {
				return res, errors.Join(ctx.Err(), err)
			}
		} else if binary == "" {
			if overlay == "" {
				if overlay, err = r.overlay(dir, map[string]string{m.file: m.built.apply(m.src)}); err != nil {
					return res, err
				}
			}
			binary = filepath.Join(dir, fmt.Sprintf("%d.test", len(built)))
			if output, err := r.build(ctx, t.pkg, binary, overlay); err != nil {
				if ctx.Err() != nil {
					return res, ctx.Err()
				}
				res.Outcome, res.By = invalid, firstLine(output)
				break
			}
			built[t.pkg] = binary
		}
		ok, output := r.run(ctx, t, binary, env, limit)
		if ctx.Err() != nil {
			return res, ctx.Err()
		}
		if !ok {
			res.Outcome, res.By = judge(m, output)
			break
		}
	}
	res.Seconds = time.Since(started).Seconds()
	return res, nil
}

// batch returns the batch that has the mutant, or nil.
func (r *runner) batch(m *mutant) *batch {
	for _, b := range r.prepared {
		if b.holds(m) {
			return b
		}
	}
	return nil
}

// overlay writes changed files, by their names in the module, and the JSON that makes the compiler read them.
func (r *runner) overlay(dir string, files map[string]string) (string, error) {
	replace := make(map[string]string)
	for name, text := range files {
		changed := filepath.Join(dir, fmt.Sprintf("%d%s", len(replace), filepath.Ext(name)))
		if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(r.root, filepath.FromSlash(name))] = changed
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, text, 0o600)
}

// compile compiles a package without its tests, and lists all errors.
func (r *runner) compile(ctx context.Context, pkg, overlay string) (output string, err error) {
	cmd := exec.CommandContext(ctx, "go", "build", "-gcflags=-e", "-overlay", overlay, pkg)
	cmd.Dir = r.root
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// build compiles the tests of a package. go vet stays out: a condition "false && x" is what it complains of.
func (r *runner) build(ctx context.Context, pkg, binary, overlay string) (output string, err error) {
	args := []string{"test", "-c", "-vet=off", "-o", binary}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Dir = r.root
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// run runs a test binary in the directory of its package, as go test does.
func (r *runner) run(ctx context.Context, t test, binary string, env []string, limit time.Duration) (ok bool, output string) {
	// The limit of the binary names the tests that hang. The other one is for a binary that does not heed it.
	ctx, cancel := context.WithTimeout(ctx, limit+10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append([]string{"-test.failfast", "-test.timeout", limit.String()}, t.flags...)...)
	cmd.Dir = filepath.Join(r.root, filepath.FromSlash(t.pkg))
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = time.Second // children that outlive the test keep its output open
	text, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if ctx.Err() != nil {
		text = append(text, "\npanic: test timed out\n"...)
	}
	return err == nil, string(text)
}

// limit is how long a test may take: five times what it takes without a mutant. The first call for a test finds that out, and
// fails if the test does.
func (r *runner) limit(ctx context.Context, m *mutant, t test) (time.Duration, error) {
	took, ok := r.baseline[t.String()]
	if !ok {
		binary, err := r.without(ctx, m, t.pkg)
		if err != nil {
			return 0, errors.Join(ctx.Err(), err)
		}
		started := time.Now()
		if ok, output := r.run(ctx, t, binary, nil, 10*time.Minute); !ok {
			return 0, errors.Join(ctx.Err(), fmt.Errorf("%s fails without a mutant:\n%s", t, tail(output, 20)))
		} else if strings.Contains(output, "testing: warning: no tests to run") {
			return 0, fmt.Errorf("%s matches no test", t)
		}
		took = time.Since(started)
		r.baseline[t.String()] = took
	}
	return max(r.least, 5*took), nil
}

// without returns the test binary of a package without a mutant.
func (r *runner) without(ctx context.Context, m *mutant, pkg string) (string, error) {
	if b := r.batch(m); b != nil {
		return b.binary(ctx, pkg)
	}
	if binary, ok := r.original[pkg]; ok {
		return binary, nil
	}
	binary := filepath.Join(r.dir, fmt.Sprintf("original%d.test", len(r.original)))
	if output, err := r.build(ctx, pkg, binary, ""); err != nil {
		return "", &buildError{pkg, output}
	}
	r.original[pkg] = binary
	return binary, nil
}

var (
	failedTest = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)
	hangingRun = regexp.MustCompile(`(?m)^\s*(Test\S+) \(`)
	// What databases say of a statement that is none, as opposed to one that does the wrong thing.
	noStatement = regexp.MustCompile(`syntax error|incomplete input`)
)

// judge tells what the output of a failed test says about a mutant.
func judge(m *mutant, output string) (outcome, string) {
	if strings.Contains(output, "panic: test timed out") {
		by := ""
		if _, list, ok := strings.Cut(output, "running tests:"); ok {
			if names := hangingRun.FindAllStringSubmatch(list, -1); names != nil {
				by = names[len(names)-1][1]
			}
		}
		return timedOut, by
	}
	if strings.HasSuffix(m.file, ".sql") {
		if at := noStatement.FindStringIndex(output); at != nil {
			return invalid, firstLine(output[at[0]:])
		}
	}
	// A test stands behind its subtests, and the innermost says most.
	by := ""
	for _, f := range failedTest.FindAllStringSubmatch(output, -1) {
		if by == "" || strings.HasPrefix(f[1], by) {
			by = f[1]
		}
	}
	if by == "" && strings.Contains(output, "panic: ") {
		_, what, _ := strings.Cut(output, "panic: ")
		by = "panic: " + firstLine(what)
	}
	return killed, by
}

func firstLine(s string) string {
	for line := range strings.SplitSeq(s, "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return line
		}
	}
	return ""
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
