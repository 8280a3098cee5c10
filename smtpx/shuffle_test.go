package smtpx_test

import (
	"slices"
	"testing"

	"github.com/outboxmail/outbox/smtpx"
)

// stops tells whether a verdict stops the relay for all senders.
func stops(class smtpx.Class, rule smtpx.Rule, stage smtpx.Stage) bool {
	if class != smtpx.ClassConfig {
		return false
	}
	scope := rule.Scope
	if scope == "" {
		scope = (&smtpx.Error{Class: class, Stage: stage}).Scope()
	}
	return scope == smtpx.ScopeLogin || scope == smtpx.ScopeRelay
}

// Words keep their meaning with another code at another stage. Words about an allowance fail no message permanently. Words about
// a recipient or the content stop no relay.
func TestShuffledCodesDoNoHarm(t *testing.T) {
	generic, _ := smtpx.LookupProfile("generic")
	lines := slices.Concat(corpus(t, "testdata/replies.txt"), corpus(t, "testdata/meanings.txt"))
	stages := []smtpx.Stage{smtpx.StageRcpt, smtpx.StageData, smtpx.StageDot}
	tried := 0
	for _, l := range lines {
		if l.provider != "generic" || l.reply.Text() == "" {
			continue
		}
		base, rule := generic.Classify(l.stage, l.reply)
		if base != l.class || rule.ID == "quota.words" {
			continue // TestCorpus tells of the one; the other goes by the stage, as before the body no mailbox can be full
		}
		for _, stage := range stages {
			for _, code := range []int{421, 450, 451, 452, 550, 551, 552, 553, 554, 571} {
				r := l.reply
				r.Code = code
				if r.Enhanced != "" {
					r.Enhanced = string(rune('0'+code/100)) + r.Enhanced[1:]
				}
				class, rule := generic.Classify(stage, r)
				tried++
				final := class == smtpx.ClassRecipient || class == smtpx.ClassMessage
				switch {
				case code < 500 && final:
					t.Errorf("%s: %v is for good by %s", stage, r, rule)
				case code >= 500 && final && (l.class == smtpx.ClassQuota || l.class == smtpx.ClassThrottled) && stage != smtpx.StageData:
					t.Errorf("%s: %v is %s by %s, and %s with the code %d at %s", stage, r, class, rule, l.class, l.reply.Code, l.stage)
				case (l.class == smtpx.ClassRecipient || l.class == smtpx.ClassMessage) && stops(class, rule, stage):
					t.Errorf("%s: %v stops the relay by %s, and is %s with the code %d at %s", stage, r, rule, l.class, l.reply.Code, l.stage)
				}
			}
		}
	}
	if tried < 5000 {
		t.Errorf("only %d replies were tried", tried)
	}
}
