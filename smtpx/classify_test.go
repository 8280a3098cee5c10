package smtpx_test

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/smtpx"
)

// corpusLine is one line of testdata/replies.txt.
type corpusLine struct {
	provider string
	stage    smtpx.Stage
	class    smtpx.Class
	reply    smtpx.Reply
	source   string
}

func corpus(t *testing.T, file string) []corpusLine {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var lines []corpusLine
	source := ""
	for s := bufio.NewScanner(f); s.Scan(); {
		line := s.Text()
		if from, ok := strings.CutPrefix(line, "from: "); ok {
			source = from
			continue
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		_, text, _ := strings.Cut(line, " "+fields[3]+" ")
		text = fields[3] + " " + text
		lines = append(lines, corpusLine{fields[0], smtpx.Stage(fields[1]), smtpx.Class(fields[2]), reply(t, text), source})
	}
	return lines
}

// reply makes a reply of its text as it stands in a log.
func reply(t *testing.T, text string) smtpx.Reply {
	t.Helper()
	code, text, _ := strings.Cut(text, " ")
	n, err := strconv.Atoi(code)
	if err != nil {
		t.Fatalf("reply %q has no code", text)
	}
	return smtpx.NewReply(n, strings.Split(text, " | ")...)
}

func TestCorpus(t *testing.T) {
	lines := corpus(t, "testdata/replies.txt")
	if len(lines) < 150 {
		t.Fatalf("the corpus has %d replies, want 150 at least", len(lines))
	}
	for _, l := range lines {
		if l.source == "" {
			t.Errorf("%v has no source", l.reply)
		}
		profile, ok := smtpx.LookupProfile(l.provider)
		if !ok {
			t.Errorf("no profile %q", l.provider)
			continue
		}
		if class, rule := profile.Classify(l.stage, l.reply); class != l.class {
			t.Errorf("%s %s: %v\n\tis %s by rule %s, want %s (%s)", l.provider, l.stage, l.reply, class, rule, l.class, l.source)
		}
	}
}

// Replies that nobody collected are understood by what they say.
func TestClassifyByMeaning(t *testing.T) {
	lines := corpus(t, "testdata/meanings.txt")
	if len(lines) < 300 {
		t.Fatalf("%d replies, want 300 at least", len(lines))
	}
	for _, l := range lines {
		profile, ok := smtpx.LookupProfile(l.provider)
		if !ok {
			t.Errorf("no profile %q", l.provider)
			continue
		}
		if class, rule := profile.Classify(l.stage, l.reply); class != l.class {
			t.Errorf("%s %s: %v\n\tis %s by rule %s, want %s", l.provider, l.stage, l.reply, class, rule, l.class)
		}
	}
}
