package smtpx

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Finding is something about a message that is allowed and may still cause trouble.
type Finding struct {
	// Rule names the check: "duplicate", "folded", "recipients", "size", "line", "header".
	Rule string
	// Text tells people about it, in one sentence.
	Text string
	// Recipients are the recipients that it is about, if any.
	Recipients []string
}

// mailboxes lists providers for which several spellings of an address are one mailbox.
var mailboxes = []struct {
	domains []string
	as      string // the domain that all of them stand for, "" if each is its own
	dots    bool   // dots in the local part do not count
	tags    bool   // a plus and what follows it do not count
	source  string
}{
	{[]string{"gmail.com", "googlemail.com"}, "gmail.com", true, true, "support.google.com/mail/answer/7436150"},
	{[]string{"outlook.com", "hotmail.com", "live.com"}, "", false, true, "learn.microsoft.com/exchange (plus addressing)"},
	{[]string{"icloud.com", "me.com", "mac.com"}, "icloud.com", false, true, "support.apple.com"},
	{[]string{"fastmail.com", "fastmail.fm"}, "", false, true, "fastmail.help (plus addressing)"},
	{[]string{"proton.me", "protonmail.com", "pm.me"}, "proton.me", true, true, "proton.me/support/addresses-and-aliases"},
}

// Lint returns what may cause trouble at a relay with this profile or at receivers. It changes nothing. A message with findings can
// still be sent: recipients that are one mailbox get it twice.
func (p *Profile) Lint(env Envelope, body []byte) []Finding {
	findings := lintRecipients(env.To)
	if p != nil {
		if f := p.Recipients; f.Sure() && len(env.To) > f.Value {
			findings = append(findings, Finding{Rule: "recipients",
				Text: fmt.Sprintf("%d recipients are more than the %d that %s takes: they are sent the message in parts",
					len(env.To), f.Value, p.Title)})
		}
		if f := p.Size; f.Sure() && len(body) > f.Value {
			findings = append(findings, Finding{Rule: "size",
				Text: fmt.Sprintf("the message has %d octets, more than the %d that %s takes", len(body), f.Value, p.Title)})
		}
	}
	return append(findings, lintBody(body)...)
}

// lintRecipients finds addresses that are one mailbox.
func lintRecipients(to []string) []Finding {
	same, folded := make(map[string][]string), make(map[string][]string)
	var order, foldedOrder []string
	for _, r := range to {
		a, err := parseAddress(r)
		if err != nil {
			continue // Send gives it an outcome of its own
		}
		if same[a.text] == nil {
			order = append(order, a.text)
			key := foldAddress(a.text)
			if folded[key] == nil {
				foldedOrder = append(foldedOrder, key)
			}
			folded[key] = append(folded[key], r)
		}
		same[a.text] = append(same[a.text], r)
	}
	var findings []Finding
	for _, key := range order {
		if len(same[key]) > 1 {
			findings = append(findings, Finding{"duplicate", fmt.Sprintf("%s is named %d times", key, len(same[key])), same[key]})
		}
	}
	for _, key := range foldedOrder {
		if len(folded[key]) > 1 {
			findings = append(findings, Finding{"folded",
				fmt.Sprintf("%s are one mailbox at their provider", strings.Join(folded[key], " and ")), folded[key]})
		}
	}
	return findings
}

// foldAddress returns the same text for addresses that are one mailbox. Case never counts.
func foldAddress(a string) string {
	at := strings.LastIndexByte(a, '@')
	local, domain := strings.ToLower(a[:at]), a[at+1:]
	for _, m := range mailboxes {
		if !slices.Contains(m.domains, domain) {
			continue
		}
		if m.tags {
			local, _, _ = strings.Cut(local, "+")
		}
		if m.dots {
			local = strings.ReplaceAll(local, ".", "")
		}
		if m.as != "" {
			domain = m.as
		}
	}
	return local + "@" + domain
}

// headerOnce lists the fields that a header may have once (RFC 5322 §3.6, RFC 2045 §3), and Bcc.
var headerOnce = []string{
	"From", "Date", "Message-ID", "To", "Cc", "Bcc", "Subject", "Reply-To", "Sender", "MIME-Version", "Content-Type",
}

// maxTextLine is the largest length of a line without its CRLF, in octets (RFC 5322 §2.1.1).
const maxTextLine = 998

// lintBody finds long lines, and header fields that are missing or stand twice.
func lintBody(body []byte) []Finding {
	var findings []Finding
	seen := make(map[string]int)
	header, number := true, 0
	for line := range bytes.Lines(body) {
		number++
		text := bytes.TrimRight(line, "\r\n")
		if len(text) > maxTextLine {
			findings = append(findings, Finding{Rule: "line",
				Text: fmt.Sprintf("line %d has %d octets, more than %d: a relay may break the line and a DKIM signature",
					number, len(text), maxTextLine)})
		}
		if len(text) == 0 {
			header = false
		}
		if name, _, ok := bytes.Cut(text, []byte(":")); header && ok && text[0] != ' ' && text[0] != '\t' {
			seen[strings.ToLower(string(name))]++
		}
	}
	for _, name := range headerOnce {
		n := seen[strings.ToLower(name)]
		switch {
		case n > 1:
			findings = append(findings, Finding{Rule: "header", Text: fmt.Sprintf("the header has %s %d times", name, n)})
		case n == 0 && (name == "From" || name == "Date" || name == "Message-ID"):
			findings = append(findings, Finding{Rule: "header", Text: name + " is missing in the header"})
		case n == 1 && name == "Bcc":
			findings = append(findings, Finding{Rule: "header", Text: "Bcc in the header shows the hidden recipients to everybody"})
		}
	}
	return findings
}
