package smtpx

import (
	"regexp"
	"strings"
)

// idPatterns find the name of a message in the text of a 250. The first pattern that matches wins. The comments name servers that
// answer so.
var idPatterns = []*regexp.Regexp{
	regexp.MustCompile(`(?i)\bqueued (?:on \S+ )?as:?\s+<?([^\s<>;()]+)`),           // Postfix, SendGrid, Mailpit, Coremail, Yandex
	regexp.MustCompile(`(?i)\bqueued with id:?\s+<?([^\s<>;()]+)`),                  // Stalwart
	regexp.MustCompile(`(?i)\bmessage queued \(([^\s()]+)\)`),                       // Haraka
	regexp.MustCompile(`(?i)(?:^|[\s\[(])id[=:]\s?<?([^\s<>;,()\]]+)`),              // Exim, GMX
	regexp.MustCompile(`(?i)^ok\s+\d+\s+(\S+)\s+-\s+g\w+$`),                         // Gmail: OK time session - gsmtp
	regexp.MustCompile(`(?i)\bInternalId=(\d+)`),                                    // Exchange
	regexp.MustCompile(`(?i)^ok:?\s+(\d+\s+qp\s+\d+)`),                              // qmail: ok time qp process
	regexp.MustCompile(`(?i)^([0-9a-z]{8,})\s+Message accepted for delivery`),       // Sendmail, OpenSMTPD
	regexp.MustCompile(`(?i)^ok[:.,]?\s+<?([0-9A-Za-z][0-9A-Za-z._/+=@:-]{3,})>?$`), // SES, SparkPost, Courier
}

// MessageID returns the name that the server gave a message, from the reply to the final dot. It returns "" if there is none. A name
// has a digit and at most 255 octets. MessageID tries the patterns of the provider first, and then those of common servers. It looks at
// the last line of the reply first, and then at all lines together.
func (p *Profile) MessageID(r Reply) string {
	if p != nil {
		if id := findID(p.ids, r); id != "" {
			return id
		}
	}
	return findID(idPatterns, r)
}

// findID returns the first name that a pattern finds in a reply, or "".
func findID(patterns []*regexp.Regexp, r Reply) string {
	texts := []string{r.Text()}
	if n := len(r.Lines); n > 1 {
		texts = []string{r.Lines[n-1], r.Text()}
	}
	for _, text := range texts {
		text = strings.TrimSpace(text)
		for _, pattern := range patterns {
			if id := firstGroup(pattern, text); id != "" {
				return id
			}
		}
	}
	return ""
}

// maxID is the largest length of a name, in octets.
const maxID = 255

// firstGroup returns the first group of a match, or "" if it is no name of a message.
func firstGroup(pattern *regexp.Regexp, text string) string {
	m := pattern.FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	id := strings.TrimRight(m[1], ".,:")
	if len(id) > maxID || !strings.ContainsAny(id, "0123456789") {
		return ""
	}
	return printable(id)
}
