package smtpx

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Finding is something about a message that is allowed and still worth a look.
type Finding struct {
	// Rule names the check: "duplicate", "folded", "recipients", "size", "line", "header".
	Rule string
	// Text is one sentence for people.
	Text string
	// Recipients are those that it is about.
	Recipients []string
}

// mailboxes tell which spellings of an address the providers of mailboxes take for the same one.
var mailboxes = []struct {
	domains []string
	as      string // the domain that all of them mean, "" for each its own
	dots    bool   // dots in the local part do not count
	tags    bool   // nor does what follows a plus
	source  string
}{
	{[]string{"gmail.com", "googlemail.com"}, "gmail.com", true, true, "support.google.com/mail/answer/7436150"},
	{[]string{"outlook.com", "hotmail.com", "live.com"}, "", false, true, "learn.microsoft.com/exchange (plus addressing)"},
	{[]string{"icloud.com", "me.com", "mac.com"}, "icloud.com", false, true, "support.apple.com"},
	{[]string{"fastmail.com", "fastmail.fm"}, "", false, true, "fastmail.help (plus addressing)"},
	{[]string{"proton.me", "protonmail.com", "pm.me"}, "proton.me", true, true, "proton.me/support/addresses-and-aliases"},
}

// Lint looks for what a relay with this profile, or receivers, may stumble over. It changes nothing, and nothing that it finds
// keeps a message from being sent: recipients that are one mailbox get the message twice, one after the other.
func (p *Profile) Lint(env Envelope, body []byte) []Finding {
	findings := lintRecipients(env.To)
	if p != nil {
		if f := p.Recipients; f.Sure() && len(env.To) > f.Value {
			findings = append(findings, Finding{Rule: "recipients",
				Text: fmt.Sprintf("%d recipients are more than the %d that %s takes: they are sent in parts", len(env.To), f.Value, p.Title)})
		}
		if f := p.Size; f.Sure() && len(body) > f.Value {
			findings = append(findings, Finding{Rule: "size",
				Text: fmt.Sprintf("message of %d octets is larger than the %d that %s takes", len(body), f.Value, p.Title)})
		}
	}
	return append(findings, lintBody(body)...)
}

func lintRecipients(to []string) []Finding {
	same, folded := make(map[string][]string), make(map[string][]string)
	var order, foldedOrder []string
	for _, r := range to {
		a, err := parseAddress(r)
		if err != nil {
			continue // it gets an outcome of its own
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

// foldAddress gives the same text for addresses that are one mailbox: names differ by more than case nowhere in practice.
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

// headerOnce are fields that may stand in a header once (RFC 5322 §3.6, RFC 2045 §3), and Bcc.
var headerOnce = []string{
	"From", "Date", "Message-ID", "To", "Cc", "Bcc", "Subject", "Reply-To", "Sender", "MIME-Version", "Content-Type",
}

// maxTextLine is the longest line without its CRLF (RFC 5322 §2.1.1).
const maxTextLine = 998

func lintBody(body []byte) []Finding {
	var findings []Finding
	seen := make(map[string]int)
	header, number := true, 0
	for line := range bytes.Lines(body) {
		number++
		text := bytes.TrimRight(line, "\r\n")
		if len(text) > maxTextLine {
			findings = append(findings, Finding{Rule: "line",
				Text: fmt.Sprintf("line %d has %d octets, more than %d: a relay may break it, and a DKIM signature with it",
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
			findings = append(findings, Finding{Rule: "header", Text: fmt.Sprintf("%s stands in the header %d times", name, n)})
		case n == 0 && (name == "From" || name == "Date" || name == "Message-ID"):
			findings = append(findings, Finding{Rule: "header", Text: name + " is missing in the header"})
		case n == 1 && name == "Bcc":
			findings = append(findings, Finding{Rule: "header", Text: "Bcc in the header shows the hidden recipients to all"})
		}
	}
	return findings
}
