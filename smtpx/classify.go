package smtpx

import (
	"net/netip"
	"slices"
	"strings"
)

// Rule tells the meaning of the replies that match it. A reply matches if every condition that is set holds.
type Rule struct {
	// ID names the rule. It is stored with outcomes and never changes. The rules of a provider begin with its name.
	ID string `json:"id"`
	// Class is the meaning of a reply that matches.
	Class Class `json:"class"`
	// Effect is what the pool learns from the reply. Defaults to nothing.
	Effect Effect `json:"effect,omitempty"`
	// Scope is what the failure concerns. Defaults to the scope that follows from class and stage: see [Error.Scope].
	Scope Scope `json:"scope,omitempty"`
	// Retry is the time to wait before the next try, such as "15m". A wait stated in the reply goes before it. Defaults to a
	// time that follows from the words: see Error.RetryAfter.
	Retry string `json:"retry,omitempty"`
	// Hint tells the operator what to do, in one sentence. It may be empty.
	Hint string `json:"hint,omitempty"`
	// Source names the document, the code or the log that the rule comes from.
	Source string `json:"source"`

	// Stages are the stages in which the rule counts. None means all.
	Stages []Stage `json:"stages,omitempty"`
	// Codes are reply codes. An x stands for any digit, as in "45x". None means all.
	Codes []string `json:"codes,omitempty"`
	// Enhanced are enhanced codes (RFC 3463), as in "x.1.1" or "5.7.50x". An x stands for any digit. An x between dots stands for any
	// number. None means any code or no code.
	Enhanced []string `json:"enhanced,omitempty"`
	// Text are phrases in lower case. The reply must hold one of them. None means any text. A phrase begins where a word begins. With
	// "$" at its end it also ends where a word ends. "#ip" stands for any IP address, and "#addr" for any mail address. "@name" stands
	// for the phrases of that name in Profile.Words of the generic profile. "a + b" asks for both phrases.
	Text []string `json:"text,omitempty"`
	// And are more phrases of this kind. The reply must hold one of them, too.
	And []string `json:"and,omitempty"`
	// Not are phrases of this kind. The reply must hold none of them.
	Not []string `json:"not,omitempty"`
}

// Effect tells what a reply teaches the pool about a relay.
type Effect string

// The effects.
const (
	// EffectSessionCap: the session carried as many messages as the server allows.
	EffectSessionCap Effect = "session-cap"
	// EffectConnectionCap: the server allows fewer connections at a time.
	EffectConnectionCap Effect = "connection-cap"
	// EffectIdleLimit: the session was idle for longer than the server allows.
	EffectIdleLimit Effect = "idle-limit"
	// EffectRate: messages came too fast.
	EffectRate Effect = "rate"
	// EffectLogin: logins came too fast, or the server cannot check them for a while.
	EffectLogin Effect = "login"
)

// MailboxFull reports that a recipient was refused because its mailbox is full. The address exists and may take the next message: do
// not suppress it. MailboxFull goes by the rule. For an Error that did not come from this package it goes by the code 552 to RCPT, or
// by the enhanced code X.2.2 (RFC 3463 §3.3).
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

// String returns the ID of the rule.
func (r Rule) String() string { return r.ID }

// Classify tells the meaning of a refusal, and the rule that decided. It tries the rules of the provider first, and then the generic
// ones. The generic rules go by the words, then by the enhanced code, and then by stage and code. A nil profile stands for the generic
// one. A reply that is no refusal has no class and no rule.
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

// signature holds the parts of a reply that rules compare.
type signature struct {
	stage    Stage
	code     int
	enhanced string
	text     string
	lists    map[string]bool // lists of phrases that were looked for, and whether the text holds one
}

func newSignature(stage Stage, r Reply) signature {
	s := signature{stage: stage, code: r.Code, enhanced: r.Enhanced, text: plainText(r.Text()), lists: make(map[string]bool)}
	if s.enhanced == "" {
		s.enhanced = buriedEnhanced(r.Code, s.text)
	}
	return s
}

// plainText returns the words of a reply in lower case with single spaces. It replaces mail addresses by "#addr" and IP addresses by
// "#ip". It splits names of an API: "SenderNotVerified" is followed by "sender not verified".
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

// splitName returns the words of a name such as "FailedOperation.SenderNotVerified" in lower case. It returns nil for a single word and
// for random letters.
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

// minWordInName is the least average length of the words of a name. Random letters have shorter ones.
const minWordInName = 4

// buriedEnhanced finds an enhanced code behind the first word, as in "no mailbox here (#5.1.1)". It returns "" if there is none.
func buriedEnhanced(code int, text string) string {
	for w := range strings.FieldsSeq(text) {
		w = strings.Trim(w, "#()[]<>:;,.-")
		if validEnhanced(w) && int(w[0]-'0') == code/100 {
			return w
		}
	}
	return ""
}

// matches reports whether every condition of the rule holds.
func (s *signature) matches(r *Rule) bool {
	return (len(r.Stages) == 0 || slices.Contains(r.Stages, s.stage)) &&
		(len(r.Codes) == 0 || slices.ContainsFunc(r.Codes, s.hasCode)) &&
		(len(r.Enhanced) == 0 || slices.ContainsFunc(r.Enhanced, s.hasEnhanced)) &&
		(len(r.Text) == 0 || slices.ContainsFunc(r.Text, s.says)) &&
		(len(r.And) == 0 || slices.ContainsFunc(r.And, s.says)) &&
		!slices.ContainsFunc(r.Not, s.says)
}

// hasCode reports whether the code matches a pattern of three characters.
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

// hasEnhanced reports whether the enhanced code matches a pattern, part by part.
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

// samePart reports whether two parts of enhanced codes are equal. An x stands for any digit.
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
