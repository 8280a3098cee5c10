package smtpx

import (
	"slices"
	"strings"
)

// Rule says what a reply means. Every condition that is set must hold.
type Rule struct {
	// ID names the rule for good: it is stored with outcomes.
	ID string
	// Class is what a reply that matches means.
	Class Class
	// Hint is one sentence for the operator, "" for none.
	Hint string

	// Stages are those in which the rule counts. None means all.
	Stages []Stage
	// Codes are reply codes in which x stands for any digit, as in "45x". None means all.
	Codes []string
	// Enhanced are enhanced codes (RFC 3463) in which x stands for any number, as in "x.1.1". None means all.
	Enhanced []string
	// Text are phrases in lower case, one of which the reply must hold. None means any text.
	Text []string
}

// String returns the ID.
func (r Rule) String() string { return r.ID }

// Classify says what a refusal means: first by the signatures of the provider, then by the generic rules, which go by
// stage, code and enhanced code. A nil profile is the generic one.
func (p *Profile) Classify(stage Stage, r Reply) (Class, Rule) {
	text := strings.ToLower(r.Text())
	if p != nil {
		for i := range p.Rules {
			if matches(&p.Rules[i], stage, r, text) {
				return p.Rules[i].Class, p.Rules[i]
			}
		}
	}
	for i := range genericRules {
		if matches(&genericRules[i], stage, r, text) {
			return genericRules[i].Class, genericRules[i]
		}
	}
	return ClassTransient, Rule{ID: "unknown", Class: ClassTransient}
}

// matches tells whether all conditions of a rule hold.
func matches(r *Rule, stage Stage, reply Reply, text string) bool {
	return (len(r.Stages) == 0 || slices.Contains(r.Stages, stage)) &&
		(len(r.Codes) == 0 || slices.ContainsFunc(r.Codes, func(c string) bool { return matchCode(c, reply.Code) })) &&
		(len(r.Enhanced) == 0 || slices.ContainsFunc(r.Enhanced, func(e string) bool { return matchEnhanced(e, reply.Enhanced) })) &&
		(len(r.Text) == 0 || slices.ContainsFunc(r.Text, func(t string) bool { return strings.Contains(text, t) }))
}

func matchCode(pattern string, code int) bool {
	for i, div := range [3]int{100, 10, 1} {
		if pattern[i] != 'x' && int(pattern[i]-'0') != code/div%10 {
			return false
		}
	}
	return true
}

func matchEnhanced(pattern, enhanced string) bool {
	for {
		p, pRest, more := strings.Cut(pattern, ".")
		e, eRest, eMore := strings.Cut(enhanced, ".")
		if (p != "x" && p != e) || e == "" || more != eMore {
			return false
		}
		if !more {
			return true
		}
		pattern, enhanced = pRest, eRest
	}
}

// genericRules are right for any server that follows RFC 5321 and RFC 3463. The first that matches wins.
var genericRules = []Rule{
	{ID: "setup.config", Class: ClassConfig, Stages: []Stage{StageEHLO, StageStartTLS, StageAuth}, Codes: []string{"5xx"}},
	{ID: "auth.temporary", Class: ClassTransient, Stages: []Stage{StageAuth}, Codes: []string{"4xx"}},
	{ID: "setup.unavailable", Class: ClassUnreachable, Stages: []Stage{StageDial, StageTLS, StageBanner, StageEHLO, StageStartTLS}},
	{ID: "auth.required", Class: ClassConfig, Codes: []string{"530"}},
	{ID: "session.closing", Class: ClassRecycle, Stages: []Stage{StageIdle}, Codes: []string{"421", "451"}},
	{ID: "mail.refused", Class: ClassConfig, Stages: []Stage{StageMail}, Codes: []string{"550", "553"}, Enhanced: []string{"5.1.x", "5.7.x"}},
	{ID: "rcpt.policy", Class: ClassRecipient, Stages: []Stage{StageRcpt}, Codes: []string{"5xx"}},
	{ID: "any.permanent", Class: ClassMessage, Codes: []string{"5xx"}},
	{ID: "any.transient", Class: ClassTransient, Codes: []string{"4xx"}},
}
