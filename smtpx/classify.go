package smtpx

import (
	"net/netip"
	"slices"
	"strings"
)

// Rule says what a reply means. Every condition that is set must hold.
type Rule struct {
	// ID names the rule for good: it is stored with outcomes. Rules of a provider begin with its name.
	ID string `json:"id"`
	// Class is what a reply that matches means.
	Class Class `json:"class"`
	// Effect is what the pool learns of it.
	Effect Effect `json:"effect,omitempty"`
	// Scope is what such a failure concerns. Defaults to what follows from class and stage: see [Error.Scope].
	Scope Scope `json:"scope,omitempty"`
	// Retry is a duration such as "15m": how long to wait before trying again where the reply does not say. Defaults to what the
	// words of the reply let one expect: see Error.RetryAfter.
	Retry string `json:"retry,omitempty"`
	// Hint is one sentence for the operator, "" for none.
	Hint string `json:"hint,omitempty"`
	// Source says where the rule comes from.
	Source string `json:"source"`

	// Stages are those in which the rule counts. None means all.
	Stages []Stage `json:"stages,omitempty"`
	// Codes are reply codes in which x stands for any digit, as in "45x".
	Codes []string `json:"codes,omitempty"`
	// Enhanced are enhanced codes (RFC 3463) in which x stands for any digit, or for any number where it stands alone, as in
	// "x.1.1" or "5.7.50x". None means any or none.
	Enhanced []string `json:"enhanced,omitempty"`
	// Text are phrases in lower case; the reply must hold one of them. None means any text. A phrase begins where a word begins, and
	// with "$" at its end it ends where a word ends. "#ip" stands for any IP address and "#addr" for any mail address. "@name" stands
	// for the phrases of that name in the list "words" of the generic profile. "a + b" asks for both phrases.
	Text []string `json:"text,omitempty"`
	// And are more such phrases, one of which the reply must hold as well.
	And []string `json:"and,omitempty"`
	// Not are phrases that the reply must not hold.
	Not []string `json:"not,omitempty"`
}

// Effect is what a reply teaches about a relay.
type Effect string

// The effects.
const (
	// EffectSessionCap: the session carried as many messages as it may.
	EffectSessionCap Effect = "session-cap"
	// EffectConnectionCap: fewer connections are allowed at a time than were tried.
	EffectConnectionCap Effect = "connection-cap"
	// EffectIdleLimit: the session was quiet for longer than it may be.
	EffectIdleLimit Effect = "idle-limit"
	// EffectRate: messages came too fast.
	EffectRate Effect = "rate"
	// EffectLogin: logins came too fast, or cannot be served for a while.
	EffectLogin Effect = "login"
)

// MailboxFull reports that a recipient was refused because its mailbox is full. The address exists and may take the next message: do
// not suppress it. The message itself has failed if Class is ClassRecipient. It goes by the rule, and for an Error that did not come
// from this package by the code 552 to RCPT and the enhanced code X.2.2 (RFC 3463 §3.3).
func (e *Error) MailboxFull() bool {
	if strings.HasPrefix(e.Rule, "mailbox.full") {
		return true
	}
	if e.Class != ClassRecipient && e.Class != ClassTransient {
		return false
	}
	_, detail, _ := strings.Cut(e.Reply.Enhanced, ".")
	return detail == "2.2" || (detail == "" && e.Reply.Code == 552 && e.Stage == StageRcpt)
}

// String returns the ID.
func (r Rule) String() string { return r.ID }

// Classify says what a refusal means: first by the signatures of the provider, then by the generic rules, which go by what
// the words mean, by stage, code and enhanced code, by stage and code, and at last by the first digit alone. A nil profile is
// the generic one. A reply that is no refusal has no class and no rule.
func (p *Profile) Classify(stage Stage, r Reply) (Class, Rule) {
	if r.Code < 400 {
		return "", Rule{}
	}
	s := newSignature(stage, r)
	if p != nil && p != generic {
		for i := range p.Rules {
			if s.matches(&p.Rules[i]) {
				return p.Rules[i].Class, p.Rules[i]
			}
		}
	}
	for i := range generic.Rules {
		if s.matches(&generic.Rules[i]) {
			return generic.Rules[i].Class, generic.Rules[i]
		}
	}
	return ClassTransient, Rule{ID: "unknown", Class: ClassTransient}
}

// signature is a reply as the rules see it.
type signature struct {
	stage    Stage
	code     int
	enhanced string
	text     string
	lists    map[string]bool // whether the text holds a phrase of a list, as far as it was asked
}

func newSignature(stage Stage, r Reply) signature {
	s := signature{stage: stage, code: r.Code, enhanced: r.Enhanced, text: plainText(r.Text()), lists: make(map[string]bool)}
	if s.enhanced == "" {
		s.enhanced = buriedEnhanced(r.Code, s.text)
	}
	return s
}

// plainText puts a reply's words in lower case with single spaces. It writes "#addr" for a mail address and "#ip" for an IP address:
// their names mean nothing, but that they stand there does. It adds the words of a name that an API ran together: after
// "SenderNotVerified" follows "sender not verified".
func plainText(text string) string {
	words := strings.Fields(strings.NewReplacer("’", "'", "<", " <", ">", "> ").Replace(text))
	kept := words[:0:0]
	for _, w := range words {
		bare := strings.Trim(w, "[](){}<>:;,.'\"")
		lower := strings.ToLower(w)
		switch {
		case strings.Contains(w, "@") && bare != "@":
			lower = strings.Replace(lower, strings.ToLower(bare), "#addr", 1)
		case len(bare) >= len("1.1.1.1"):
			if _, err := netip.ParseAddr(bare); err == nil {
				lower = strings.Replace(lower, strings.ToLower(bare), "#ip", 1)
			}
		}
		kept = append(append(kept, lower), splitName(bare)...)
	}
	return strings.Join(kept, " ")
}

// splitName returns the words of a name such as "FailedOperation.SenderNotVerified" in lower case, nil for anything else: a word, or
// a random text of both cases.
func splitName(name string) []string {
	var words []string
	start, last := 0, byte(0)
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'A' && c <= 'Z':
			if last >= 'a' && last <= 'z' {
				words, start = append(words, strings.ToLower(name[start:i])), i
			}
		case c >= 'a' && c <= 'z':
		case strings.IndexByte(`.:;,-_"{}[]()=/`, c) >= 0:
			if i > start {
				words = append(words, strings.ToLower(name[start:i]))
			}
			start = i + 1
		default:
			return nil
		}
		last = c
	}
	if start < len(name) {
		words = append(words, strings.ToLower(name[start:]))
	}
	if len(words) < 2 || len(name) < minWordInName*len(words) || strings.ToLower(name) == name {
		return nil
	}
	return words
}

// minWordInName is the least average length of the words in a name that is more than random letters.
const minWordInName = 4

// buriedEnhanced finds an enhanced code that does not stand at the start: "no mailbox here (#5.1.1)", "[5.7.1] denied".
func buriedEnhanced(code int, text string) string {
	for w := range strings.FieldsSeq(text) {
		w = strings.Trim(w, "#()[]<>:;,.-")
		if validEnhanced(w) && int(w[0]-'0') == code/100 {
			return w
		}
	}
	return ""
}

func (s *signature) matches(r *Rule) bool {
	return (len(r.Stages) == 0 || slices.Contains(r.Stages, s.stage)) &&
		(len(r.Codes) == 0 || slices.ContainsFunc(r.Codes, s.hasCode)) &&
		(len(r.Enhanced) == 0 || slices.ContainsFunc(r.Enhanced, s.hasEnhanced)) &&
		(len(r.Text) == 0 || slices.ContainsFunc(r.Text, s.says)) &&
		(len(r.And) == 0 || slices.ContainsFunc(r.And, s.says)) &&
		!slices.ContainsFunc(r.Not, s.says)
}

// hasCode matches a reply code with a pattern of three characters.
func (s *signature) hasCode(pattern string) bool {
	code := s.code
	for i := 2; i >= 0; i-- {
		if pattern[i] != 'x' && int(pattern[i]-'0') != code%10 {
			return false
		}
		code /= 10
	}
	return true
}

// hasEnhanced matches an enhanced code part by part.
func (s *signature) hasEnhanced(pattern string) bool {
	enhanced := s.enhanced
	for enhanced != "" {
		p, pRest, more := strings.Cut(pattern, ".")
		e, eRest, eMore := strings.Cut(enhanced, ".")
		if more != eMore || (p != "x" && !samePart(p, e)) {
			return false
		}
		if !more {
			return true
		}
		pattern, enhanced = pRest, eRest
	}
	return false
}

func samePart(pattern, part string) bool {
	if len(pattern) != len(part) {
		return false
	}
	for i := range len(part) {
		if pattern[i] != 'x' && pattern[i] != part[i] {
			return false
		}
	}
	return true
}
