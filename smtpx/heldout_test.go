package smtpx_test

import (
	"bufio"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/smtpx"
)

// labelled is a reply and the classes that a careful reader may give it, the best first.
type labelled struct {
	provider string
	stage    smtpx.Stage
	classes  []smtpx.Class
	reply    smtpx.Reply
	source   string
}

// readLabelled reads a file of replies in the format of testdata/heldout.txt. Lines of testdata/replies.txt fit it too.
func readLabelled(t *testing.T, file string) []labelled {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []labelled
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
		l := labelled{provider: fields[0], stage: smtpx.Stage(fields[1]), reply: reply(t, fields[3]+" "+text), source: source}
		for class := range strings.SplitSeq(fields[2], ",") {
			l.classes = append(l.classes, smtpx.Class(class))
		}
		all = append(all, l)
	}
	return all
}

// figures are how well replies were understood.
type figures struct {
	replies  int
	accepted int // one of the classes of the label
	strict   int // the first class of the label
}

// harmful says what a wrong class would cost, "" if it costs nothing that cannot be mended.
func (l labelled) harmful(class smtpx.Class, rule smtpx.Rule) string {
	if slices.Contains(l.classes, class) {
		return ""
	}
	final := func(c smtpx.Class) bool { return c == smtpx.ClassRecipient || c == smtpx.ClassMessage }
	if final(class) && !slices.ContainsFunc(l.classes, final) {
		return "a message fails for good that may be sent"
	}
	scope := rule.Scope
	if scope == "" {
		scope = (&smtpx.Error{Class: class, Stage: l.stage}).Scope()
	}
	if class == smtpx.ClassConfig && scope != smtpx.ScopeSender && scope != smtpx.ScopeMessage {
		return "a relay stops that works"
	}
	return ""
}

// understand classifies replies. wrong is called for those whose class is none of the label's.
func understand(t *testing.T, all []labelled, wrong func(l labelled, class smtpx.Class, rule smtpx.Rule)) figures {
	t.Helper()
	var got figures
	for _, l := range all {
		profile, ok := smtpx.LookupProfile(l.provider)
		if !ok {
			t.Fatalf("no profile %q", l.provider)
		}
		class, rule := profile.Classify(l.stage, l.reply)
		got.replies++
		if class == l.classes[0] {
			got.strict++
		}
		if slices.Contains(l.classes, class) {
			got.accepted++
		} else {
			wrong(l, class, rule)
		}
	}
	return got
}

// Replies that no rule was written from are understood by what they say: 95 of 100 acceptably, 85 as their label has it first, all
// of the providers that most people use, and none to anybody's harm.
func TestHeldOut(t *testing.T) {
	all := readLabelled(t, heldOutFile)
	if len(all) < 200 {
		t.Fatalf("%d replies, want 200 at least", len(all))
	}
	for _, known := range readLabelled(t, corpusFile) {
		for _, l := range all {
			if l.reply.Code == known.reply.Code && l.reply.Text() == known.reply.Text() {
				t.Errorf("%v stands in both files", l.reply)
			}
		}
	}
	got := understand(t, all, func(l labelled, class smtpx.Class, rule smtpx.Rule) {
		t.Logf("%s %s: %v\n\tis %s by %s, want %v", l.provider, l.stage, l.reply, class, rule, l.classes)
		if harm := l.harmful(class, rule); harm != "" {
			t.Errorf("%s: %v", harm, l.reply)
		}
		if slices.Contains([]string{"ses", "sendgrid", "gmail", "m365"}, l.provider) {
			t.Errorf("%s %s: %v is %s by %s, want %v", l.provider, l.stage, l.reply, class, rule, l.classes)
		}
	})
	if got.accepted*100 < 95*got.replies || got.strict*100 < 85*got.replies {
		t.Errorf("%d of %d replies are understood, %d of them strictly", got.accepted, got.replies, got.strict)
	}
	for _, l := range all {
		if l.source == "" {
			t.Errorf("%v has no source", l.reply)
		}
	}
}

// The two files of replies with sources.
const (
	corpusFile  = "testdata/replies.txt"
	heldOutFile = "testdata/heldout.txt"
)
