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

func corpus(t *testing.T) []corpusLine {
	t.Helper()
	f, err := os.Open("testdata/replies.txt")
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
	lines := corpus(t)
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

// Replies that nobody collected are understood by what they say. These are made up.
func TestClassifyByMeaning(t *testing.T) {
	generic, _ := smtpx.LookupProfile("generic")
	for text, want := range map[string]struct {
		stage smtpx.Stage
		class smtpx.Class
	}{
		"421 4.7.0 quota exceeded":                                       {smtpx.StageData, smtpx.ClassQuota},
		"451 4.7.1 Sorry, sending limits exceeded: 500 per hour":         {smtpx.StageMail, smtpx.ClassThrottled},
		"421 Server too busy":                                            {smtpx.StageMail, smtpx.ClassThrottled},
		"451 4.7.1 DMARC temporary failure":                              {smtpx.StageDot, smtpx.ClassTransient},
		"550 Account limit exceeded. Upgrade your plan":                  {smtpx.StageMail, smtpx.ClassQuota},
		"452 4.2.2 You have exceeded your monthly email allowance":       {smtpx.StageMail, smtpx.ClassQuota},
		"550 Your account has been blocked due to unusual activity":      {smtpx.StageMail, smtpx.ClassConfig},
		"421 4.7.0 too many messages in this connection":                 {smtpx.StageMail, smtpx.ClassRecycle},
		"550 5.7.1 Email cannot be delivered. Recipient is suppressed":   {smtpx.StageDot, smtpx.ClassRecipient},
		"550 5.2.1 Mailbox unavailable. Your IP address is blacklisted":  {smtpx.StageRcpt, smtpx.ClassConfig},
		"550 5.7.1 Recipient not authorized, your IP is on a block list": {smtpx.StageRcpt, smtpx.ClassConfig},
		"451 Resources temporarily unavailable. Please try again later.": {smtpx.StageRcpt, smtpx.ClassTransient},
		"554 5.6.0 Invalid header found":                                 {smtpx.StageDot, smtpx.ClassMessage},
		"550 #5.1.0 Address rejected.":                                   {smtpx.StageRcpt, smtpx.ClassRecipient},
		"535 Account has insufficient credits":                           {smtpx.StageAuth, smtpx.ClassQuota},
		"550 Access denied - Invalid HELO name (See RFC2821 4.1.1.1)":    {smtpx.StageEHLO, smtpx.ClassConfig},
		"554 Refused. Your reverse DNS entry does not resolve.":          {smtpx.StageDot, smtpx.ClassConfig},
		"451 4.4.1 connect to 127.0.0.1[127.0.0.1]:10024: refused":       {smtpx.StageDot, smtpx.ClassTransient},
		"554 5.7.1 Rejected: attachment type not allowed":                {smtpx.StageDot, smtpx.ClassMessage},
		"421 4.3.2 shutting down":                                        {smtpx.StageIdle, smtpx.ClassRecycle},
	} {
		if class, rule := generic.Classify(want.stage, reply(t, text)); class != want.class {
			t.Errorf("%s %s: is %s by rule %s, want %s", want.stage, text, class, rule, want.class)
		}
	}
}
