package smtpx

import (
	"regexp"
	"strings"
)

// idPatterns find the name that a server gave a message in the text of its 250. The first that matches wins.
var idPatterns = []*regexp.Regexp{
	regexp.MustCompile(`(?i)queued as:?\s+<?([^\s<>;,()]+)`),                    // Postfix, SendGrid, Mailpit, Haraka
	regexp.MustCompile(`(?i)^ok:?\s+id=<?([^\s<>;,]+)`),                         // Exim
	regexp.MustCompile(`(?i)^ok\s+\d+\s+(\S+)\s+-\s+g\w+$`),                     // Gmail: OK time session - gsmtp
	regexp.MustCompile(`(?i)\bInternalId=(\d+)`),                                // Exchange
	regexp.MustCompile(`^([0-9A-Za-z]{10,})\s+Message accepted for delivery`),   // Sendmail
	regexp.MustCompile(`(?i)^ok:?\s+<?([0-9A-Za-z][0-9A-Za-z._/+=@:-]{3,})>?$`), // SES, SparkPost
}

// MessageID takes the provider's name of a message from the reply to the final dot, "" if there is none. The provider's own
// patterns are tried before those that fit many servers.
func (p *Profile) MessageID(r Reply) string {
	text := strings.Join(r.Lines, " ")
	if p != nil {
		for _, pattern := range p.ids {
			if id := firstGroup(pattern, text); id != "" {
				return id
			}
		}
	}
	for _, pattern := range idPatterns {
		if id := firstGroup(pattern, text); id != "" {
			return id
		}
	}
	return ""
}

func firstGroup(pattern *regexp.Regexp, text string) string {
	m := pattern.FindStringSubmatch(text)
	if m == nil || len(m[1]) > 255 {
		return ""
	}
	return printable(m[1])
}
