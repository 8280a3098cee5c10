package smtpx

import "regexp"

// idPatterns find the name that a server gave a message in the text of its 250. The first that matches wins.
var idPatterns = []*regexp.Regexp{
	regexp.MustCompile(`(?i)queued as:?\s+<?([^\s<>;,()]+)`),                    // Postfix, SendGrid, Mailpit, Haraka
	regexp.MustCompile(`(?i)^ok:?\s+id=<?([^\s<>;,]+)`),                         // Exim
	regexp.MustCompile(`(?i)^ok\s+\d+\s+(\S+)\s+-\s+g\w+$`),                     // Gmail: OK time session - gsmtp
	regexp.MustCompile(`(?i)\bInternalId=(\d+)`),                                // Exchange
	regexp.MustCompile(`^([0-9A-Za-z]{10,})\s+Message accepted for delivery`),   // Sendmail
	regexp.MustCompile(`(?i)^ok:?\s+<?([0-9A-Za-z][0-9A-Za-z._/+=@:-]{3,})>?$`), // SES, SparkPost
}

// providerID takes the provider's id from the reply to the final dot, "" if there is none.
func providerID(r Reply) string {
	for _, p := range idPatterns {
		if m := p.FindStringSubmatch(r.Text()); m != nil && len(m[1]) <= 255 {
			return printable(m[1])
		}
	}
	return ""
}
