package smtpx

import (
	"regexp"
	"strings"
)

// idPatterns find the name that a server gave a message in the text of its 250. The first that matches wins. The name of the server
// in the comment is one that answers so; its version or the source of the reply is in TestMessageID.
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

// MessageID returns the provider's name of a message from the reply to the final dot, "" if there is none. A name has a digit: what
// has none is a word, such as "queued as requested". The provider's own patterns are tried before those that fit many servers. Of a
// reply of several lines the last is tried first, and then all of them together.
func (p *Profile) MessageID(r Reply) string {
	if p != nil {
		if id := findID(p.ids, r); id != "" {
			return id
		}
	}
	return findID(idPatterns, r)
}

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

// maxID is the longest name of a message that is taken, in octets.
const maxID = 255

// firstGroup returns what the first group of a pattern finds, "" if it is no name of a message.
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
