package model

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/internal/campaign"
)

// model is the file with the model.
const model = "claims.pml"

// size is how much of the protocol a search covers.
type size struct {
	messages, claims, faults int
}

func (s size) String() string {
	return fmt.Sprintf("%d messages, %d claims at the same time, %d faults", s.messages, s.claims, s.faults)
}

// short is the size of a search that takes seconds.
var short = size{messages: 2, claims: 2, faults: 2}

// long holds the sizes of the campaign, longEnds those of its searches for a run without end.
var (
	long     = []size{{2, 2, 3}, {2, 3, 2}, {1, 3, 4}, {1, 4, 4}, {3, 2, 1}}
	longEnds = []size{{2, 2, 2}, {1, 3, 3}}
)

// What a search may find.
const (
	noFault  = "no fault"
	unasked  = "a copy arrives although no doubt explains it"
	undone   = "a delivery leaves a terminal state"
	stuck    = "nothing can happen any more, and a message is neither terminal nor waits for a person"
	unheard  = "a late outcome does not settle the doubt that its claim left"
	leftOver = "nothing can happen any more, and a claim is left"
	endless  = "a run does not end"
)

// TestProtocol searches all runs of the model. No message is lost, no copy arrives that a doubt does not explain, and every run ends.
// Then it leaves out the guards of the protocol one by one and finds a fault each time.
func TestProtocol(t *testing.T) {
	s := newSearcher(t)
	faults, ends := s.build(t, short, forFaults), s.build(t, short, forCycles)
	expectNoFault(t, faults, short)
	expectAnEnd(t, ends, size{short.messages, short.claims, short.faults - 1})

	want := map[string]string{ // for any other guard: unasked
		"CLAIM_QUEUED": undone, "MARK_LAPSED": endless, "REAP_ORPHANS": stuck, "DOUBT_KEPT": unheard, "RESOLVE_RESEND": stuck,
	}
	for i, g := range guards(t) {
		t.Run("without "+g.name, func(t *testing.T) {
			fault, ok := want[g.name]
			if !ok {
				fault = unasked
			}
			p := faults
			if fault == endless {
				p = ends
			}
			got := search(t, p, short.faults, i+1)
			t.Logf("left out: %s. Found after %d states: %s", g.words, got.states, got.fault)
			if got.fault != fault {
				t.Errorf("left out: %s. The search finds: %s; want: %s", g.words, got.fault, fault)
			}
		})
	}
}

// TestLargerProtocols searches larger models.
func TestLargerProtocols(t *testing.T) {
	onlyInCampaigns(t)
	s := newSearcher(t)
	for _, size := range long {
		expectNoFault(t, s.build(t, size, forFaults), size)
	}
	for _, size := range longEnds {
		expectAnEnd(t, s.build(t, size, forCycles), size)
	}
}

// TestTheLeaseAtTheFence shows a check that the properties do not need. Once the mark and the lock exclude each other, a fence under a
// lease that is over and not marked leads to a doubt.
func TestTheLeaseAtTheFence(t *testing.T) {
	onlyInCampaigns(t)
	s := newSearcher(t)
	const check = "c[t].row && c[t].holds && GUARD(FENCE_LAPSED"
	if strings.Count(s.text, check) != 1 {
		t.Fatalf("%s does not contain %q once", model, check)
	}
	s.text = strings.Replace(s.text, check, "c[t].row && GUARD(FENCE_LAPSED", 1)
	expectNoFault(t, s.build(t, short, forFaults), short)
}

// onlyInCampaigns skips a test that takes long.
func onlyInCampaigns(t *testing.T) {
	t.Helper()
	if !campaign.On() {
		t.Skip("takes minutes: runs in make campaign")
	}
}

// guard is a guard of the protocol, as the model lists them.
type guard struct{ name, words string }

// guards returns the guards in the order of their numbers, which begin with 1.
func guards(t *testing.T) []guard {
	t.Helper()
	text, err := os.ReadFile(model)
	if err != nil {
		t.Fatal(err)
	}
	var list []guard
	for _, m := range regexp.MustCompile(`(?m)^#define ([A-Z]+_[A-Z]+) +(\d+) +/\* (.+) \*/$`).FindAllStringSubmatch(string(text), -1) {
		if list = append(list, guard{m[1], m[3]}); m[2] != strconv.Itoa(len(list)) {
			t.Errorf("guard %s has the number %s; want %d", m[1], m[2], len(list))
		}
		if strings.Count(string(text), m[1]+")")+strings.Count(string(text), m[1]+",") == 0 {
			t.Errorf("guard %s is not used", m[1])
		}
	}
	if len(list) < 20 {
		t.Errorf("%s lists %d guards", model, len(list))
	}
	return list
}

// searcher makes programs of the model and runs them.
type searcher struct {
	spin, compiler string
	text           string // the model
}

// newSearcher skips the test if a program is missing.
func newSearcher(t *testing.T) *searcher {
	t.Helper()
	s := &searcher{}
	var err error
	if s.spin, err = exec.LookPath("spin"); err != nil {
		t.Skip("the model checker spin is not installed; Debian's package is `spin`")
	}
	for _, name := range []string{"cc", "gcc", "clang"} {
		if s.compiler, err = exec.LookPath(name); err == nil {
			break
		}
	}
	if err != nil {
		t.Skip("no C compiler is installed, which spin needs")
	}
	text, err := os.ReadFile(model)
	if err != nil {
		t.Fatal(err)
	}
	s.text = string(text)
	return s
}

// kind is what a program searches for.
type kind string

const (
	forFaults kind = "-DSAFETY" // a violated assertion
	forCycles kind = "-DNP"     // a run without end
)

// program searches the model in one size.
type program struct {
	path string
	args []string
}

// build makes a program that searches the model in a size. A search sets the number of faults and the guard that is left out.
func (s *searcher) build(t *testing.T, of size, what kind) program {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, model), []byte(s.text), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, dir, s.spin, "-a", "-DSETTINGS", fmt.Sprintf("-DMESSAGES=%d", of.messages), fmt.Sprintf("-DCLAIMS=%d", of.claims), model)
	flags := []string{"-O2", "-DCOLLAPSE"} // which saves memory
	if of == short {
		flags = []string{"-O0"} // the search costs less than the optimiser
	}
	run(t, dir, s.compiler, append(flags, "-w", string(what), "-DNOFAIR", "-o", "pan", "pan.c")...)
	p := program{path: filepath.Join(dir, "pan"), args: []string{"-m20000", "-w20"}} // depth, and the size of its table
	if what == forCycles {
		p.args = append(p.args, "-l")
	}
	return p
}

// result is what a search found.
type result struct {
	fault  string
	states int
}

// The lines of a program's output.
var (
	errorsLine = regexp.MustCompile(`errors: (\d+)`)
	statesLine = regexp.MustCompile(`(\d+) states, stored`)
	faultLine  = regexp.MustCompile(`(?m)^pan:\d+: (.*) \(at depth \d+\)$`)
	cutLine    = regexp.MustCompile(`(?m)^(.*depth too small.*|.*out of memory.*|.*MEMLIM bound.*)$`)
)

// search runs a program. It fails the test if the search does not end or cannot be read.
func search(t *testing.T, p program, faults, without int) result {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), p.path, p.args...)
	cmd.Dir = filepath.Dir(p.path)
	cmd.Env = append(os.Environ(), fmt.Sprintf("WITHOUT=%d", without), fmt.Sprintf("FAULTS=%d", faults))
	raw, err := cmd.CombinedOutput()
	out := string(raw)
	if cut := cutLine.FindString(out); cut != "" {
		t.Fatalf("the search was cut off: %s", cut)
	}
	found, states := errorsLine.FindStringSubmatch(out), statesLine.FindStringSubmatch(out)
	if found == nil || states == nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	n, err := strconv.Atoi(states[1])
	if err != nil {
		t.Fatal(err)
	}
	if found[1] == "0" {
		return result{noFault, n}
	}
	line := faultLine.FindStringSubmatch(out)
	if line == nil {
		t.Fatalf("a fault that does not say which it is:\n%s", out)
	}
	fault, err := faultOf(line[1])
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return result{fault, n}
}

// faultOf returns the property that a program says is violated.
func faultOf(words string) (string, error) {
	for _, f := range []struct{ part, fault string }{
		{"(d[m].allowed>0)", unasked},
		{"(d[m].from!=t)", unheard},
		{"!(c[k].row)", leftOver},
		{"(d[i].state==", stuck},
		{"arrived", stuck},
		{"non-progress cycle", endless},
		{".state!=", undone},
	} {
		if strings.Contains(words, f.part) {
			return f.fault, nil
		}
	}
	return "", errors.New("a fault that the test does not know: " + words)
}

func expectNoFault(t *testing.T, p program, of size) {
	t.Helper()
	got := search(t, p, of.faults, 0)
	campaign.Tellf(t, "%v: %d states, %s", of, got.states, got.fault)
	if got.fault != noFault {
		t.Errorf("%v: %s; README.md says how to see the run", of, got.fault)
	}
}

func expectAnEnd(t *testing.T, p program, of size) {
	t.Helper()
	got := search(t, p, of.faults, 0)
	campaign.Tellf(t, "%v: %d states, search for a run without end: %s", of, got.states, got.fault)
	if got.fault != noFault {
		t.Errorf("%v: %s; README.md says how to see the run", of, got.fault)
	}
}

// run runs a program in a folder. It fails the test with the output if the program fails.
func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
}
