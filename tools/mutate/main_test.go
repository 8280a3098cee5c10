package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mutate runs the command over the fixture, and returns what it printed.
func mutate(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	file := func(name string) *os.File {
		f, err := os.Create(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	out, errs := file("out"), file("errs")
	err = run(t.Context(), append([]string{"-C", "testdata/fixture", "-targets", "targets.toml"}, args...), out, errs)
	text, readErr := os.ReadFile(out.Name())
	if readErr != nil {
		t.Fatal(readErr)
	}
	said, readErr := os.ReadFile(errs.Name())
	if readErr != nil {
		t.Fatal(readErr)
	}
	return string(text), string(said), err
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is missing in\n%s", part, text)
		}
	}
}

// sums returns a hash of every file of the fixture.
func sums(t *testing.T) string {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir("testdata", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(name)
		fmt.Fprintln(h, name, text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(h.Sum(nil))
}

// A run names what survived, counts a test that hangs as one that noticed, and leaves every file as it was.
func TestRun(t *testing.T) {
	t.Parallel()
	before := sums(t)
	results := filepath.Join(t.TempDir(), "results.ndjson")
	out, said, err := mutate(t, "-equivalent", "", "-results", results, "-least", "2s")
	if !errors.Is(err, errBelow) {
		t.Fatalf("the command ends with %v\n%s", err, said)
	}
	if sums(t) != before {
		t.Error("a file was changed")
	}
	contains(t, out,
		"guard/guard.go:10  16329b7a0c57  Admit: boundary moved\n  -\tif n >= limit {\n  +\tif n > limit {\n",
		"claim: LIMIT removed", "claim: term removed\n  -SELECT id FROM jobs WHERE state = 'due' AND owner IS NULL LIMIT $1;\n"+
			"  +SELECT id FROM jobs WHERE state = 'due' LIMIT $1;\n",
		"timed out: guard/guard.go:20", "Wait: statement removed (TestWait)",
		"guard                 7        7        5        1        1          0          0    85.7%",
		"sql                   3        3        1        0        2          0          0    33.3%")
	contains(t, said, "10/10")

	// The survivors are judged equivalent, and a new run resumes with what is left: nothing.
	entries, _, err := mutate(t, "-equivalent", "", "-results", results, "-resume", "-entries")
	if !errors.Is(err, errBelow) {
		t.Fatal(err)
	}
	judged := strings.ReplaceAll(entries[:strings.Index(entries, "timed out")], `reason = ""`, `reason = "for the test"`)
	list := filepath.Join(t.TempDir(), "equivalent.toml")
	if err := os.WriteFile(list, []byte(judged), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _, err = mutate(t, "-equivalent", list, "-results", results, "-resume")
	if err != nil {
		t.Error(err)
	}
	contains(t, out,
		"guard                 7        6        5        1        0          0          1   100.0%",
		"sql                   3        1        1        0        0          0          2   100.0%")

	// An entry for code that is different by now is stale.
	old := strings.Replace(judged, `"16329b7a0c57"`, `"000000000000"`, 1)
	if err := os.WriteFile(list, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _, err = mutate(t, "-equivalent", list, "-results", results, "-resume", "-want", "0")
	if err == nil || !strings.Contains(err.Error(), "1 entries of "+list+" are stale") {
		t.Errorf("a stale entry: %v", err)
	}
	contains(t, out, "stale: 000000000000  guard/guard.go Admit", "was judged equivalent: for the test", "guard/guard.go:10  16329b7a0c57")

	text, err := os.ReadFile(results)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(text, []byte("\n")); n != 10 {
		t.Errorf("%d results in the file, want 10: a resumed run tries nothing twice", n)
	}
}

// A mutant that is no Go or no SQL counts as nothing.
func TestInvalid(t *testing.T) {
	t.Parallel()
	o := options{root: fixture(t)}
	r := newRunner(o.root, t.TempDir(), 0)
	src := "package guard\n"
	m := &mutant{file: "guard/guard.go", src: src, built: edit{0, len(src), "package guard\n\nvar x int = nothing\n"}}
	res, err := r.try(t.Context(), m, []test{{pkg: "./guard"}})
	if err != nil || res.Outcome != invalid || !strings.Contains(res.By, "undefined: nothing") {
		t.Errorf("got %+v, %v", res, err)
	}
	for output, want := range map[string]outcome{
		"--- FAIL: TestX (0.00s)\n    x_test.go:1: pq: syntax error at or near \"AND\"\n":                   invalid,
		"--- FAIL: TestX (0.00s)\n    --- FAIL: TestX/y (0.00s)\n        x_test.go:1: got 1, want 2\n":      killed,
		"panic: test timed out after 2s\n\trunning tests:\n\t\tTestX (2s)\n\t\tTestX/y (2s)\n\ngoroutine 1": timedOut,
	} {
		if got, by := judge(&mutant{file: "x.sql"}, output); got != want {
			t.Errorf("%q is judged %s (%s), want %s", output, got, by, want)
		}
	}
}

// Tests that fail without a mutant would kill everything.
func TestTestsThatFailAlready(t *testing.T) {
	t.Parallel()
	r := newRunner(fixture(t), t.TempDir(), 0)
	m := &mutant{file: "guard/guard.go", src: "package guard\n", built: edit{0, 0, ""}}
	for flag, want := range map[string]string{"-test.nothing": "fails without a mutant", "-test.run=^TestNone$": "matches no test"} {
		if _, err := r.try(t.Context(), m, []test{{pkg: "./guard", flags: []string{flag}}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func fixture(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("testdata/fixture")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// A smaller draw is the beginning of a larger one, and another seed is another draw.
func TestDraw(t *testing.T) {
	t.Parallel()
	ts, err := readTargets("testdata/fixture/targets.toml")
	if err != nil {
		t.Fatal(err)
	}
	ms, err := ts[0].mutants(fixture(t))
	if err != nil {
		t.Fatal(err)
	}
	keys := func(o options) string {
		var list []string
		for _, m := range draw(o, ms) {
			list = append(list, m.key())
		}
		return strings.Join(list, " ")
	}
	all := keys(options{seed: 7})
	if some := keys(options{seed: 7, n: 3}); !strings.HasPrefix(all, some+" ") || strings.Count(some, " ") != 2 {
		t.Errorf("three of %q are %q", all, some)
	}
	if all == keys(options{seed: 8}) {
		t.Errorf("two seeds draw the same: %q", all)
	}
	if got := keys(options{at: "guard/guard.go:11"}); got != "31966f1bb116" {
		t.Errorf("line 11 has %q", got)
	}
	if got := strings.Fields(keys(options{at: "guard/guard.go:19,31966"})); len(got) != 2 {
		t.Errorf("two places have %q", got)
	}
	if got := keys(options{at: "31966"}); got != "31966f1bb116" {
		t.Errorf("the key 31966… is %q", got)
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "x.toml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"nobody"}, "no target is named nobody: there are guard, sql"},
		{[]string{"-n", "-1"}, "-n -1"},
		{[]string{"-resume", "-survivors"}, "exclude each other"},
		{[]string{"-targets", "none.toml"}, "read the targets"},
		{[]string{"-targets", file("[[target]]\nnam = 'x'")}, "unknown key target.nam"},
		{[]string{"-targets", file("[[target]]\nname = 'x'\nfiles = ['none/*.go']")}, "no file matches none/*.go"},
		{[]string{"-targets", file("[[target]]\nname = 'x'\nfiles = ['guard/*.go']")}, "has no test for guard/guard.go"},
		{[]string{"-targets", file("[[target]]\nname = 'x'\nfiles = ['guard/*.go']\ntests = [\"./guard -run 'x\"]")}, "a quote has no end"},
		{[]string{"-equivalent", file("[[equivalent]]\nkey = 'x'")}, "has no key or no reason"},
		{[]string{"-equivalent", "none.toml"}, "read the equivalent mutants"},
	} {
		args := append([]string{"-equivalent", "", "-results", filepath.Join(t.TempDir(), "r")}, tt.args...)
		if _, _, err := mutate(t, args...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %q", tt.args, err, tt.want)
		}
	}
}

// Every mutant of this module has a key of its own, and all mutants of a file can stand in it together.
func TestThisModule(t *testing.T) {
	t.Parallel()
	targets, err := readTargets("targets.toml")
	if err != nil {
		t.Fatal(err)
	}
	listed, err := readEquivalents("equivalent.toml")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]*mutant)
	for _, target := range targets {
		ms, err := target.mutants("../..")
		if err != nil {
			t.Fatal(err)
		}
		files := make(map[string][]*mutant)
		for _, m := range ms {
			if strings.HasSuffix(m.file, ".go") {
				files[m.file] = append(files[m.file], m)
			}
		}
		for _, ms := range files {
			allSwitched(t, ms)
		}
		for _, m := range ms {
			if other := seen[m.key()]; other != nil && (other.file != m.file || other.built != m.built) {
				t.Errorf("%s and %s have the key %s:\n%s%s", other.place(), m.place(), m.key(), other.diff(), m.diff())
			}
			seen[m.key()] = m
		}
	}
	t.Logf("%d mutants, %d of them judged equivalent", len(seen), len(listed))
}
