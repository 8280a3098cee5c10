package smtpx

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds what a reply can ask for: whoever has to wait for longer should look once a day whether it is still so.
const maxRetryAfter = 24 * time.Hour

// How often to look whether a period is over whose end nobody says. Windows roll, as a rule: some of the allowance is back
// long before the period is.
const (
	shortPause  = time.Minute
	mediumPause = 10 * time.Minute
	longPause   = time.Hour
)

var (
	// statedWait finds "try again in 5 minutes", "greylisted for 300 seconds", "retry after 60s", "wait at least 1 hour". Between
	// the words and the number there may be a few others, but no end of a sentence.
	statedWait = regexp.MustCompile(`\b(?:again|retry|retrying|wait|come back|resend|reconnect|gr[ea]ylist\w*|blocked|suspended|delayed)\b` +
		`[^.;0-9]{0,40}?\b(\d{1,6}) ?(seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)\b`)
	// statedClock finds "come back in 00:04:59", as milter-greylist has it.
	statedClock = regexp.MustCompile(`\b(?:again|retry|wait|come back)\b[^.;0-9]{0,40}?\b(\d{1,3}):([0-5]\d):([0-5]\d)\b`)
)

// retryAfter is how long to wait after a refusal before trying again: what the reply says, else the rule, else the period that
// the reply speaks of. 0 means that nothing is known.
func retryAfter(class Class, rule *Rule, text string) time.Duration {
	switch class {
	case ClassTransient, ClassThrottled, ClassQuota, ClassConfig, ClassUnreachable:
	default:
		return 0
	}
	if d := statedRetry(text); d > 0 {
		return d
	}
	if d := ruleRetry(rule); d > 0 {
		return d
	}
	says := func(phrases ...string) bool {
		for _, p := range phrases {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	switch {
	case class != ClassThrottled && class != ClassQuota:
	case says("daily", "per day", "today", "24 hour", "24-hour", "24h", "month", "week"):
		return longPause
	case says("hour"):
		return mediumPause
	case says("minute", "per min"):
		return shortPause
	case class == ClassQuota:
		return longPause
	}
	return 0
}

// statedRetry reads the wait that a reply asks for, 0 if it names none. The text is in lower case with single spaces.
func statedRetry(text string) time.Duration {
	if m := statedClock.FindStringSubmatch(text); m != nil {
		return boundedRetry(atoi(m[1])*3600+atoi(m[2])*60+atoi(m[3]), time.Second)
	}
	m := statedWait.FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	unit := time.Second
	switch m[2][0] {
	case 'm':
		unit = time.Minute
	case 'h':
		unit = time.Hour
	case 'd':
		unit = 24 * time.Hour
	}
	return boundedRetry(atoi(m[1]), unit)
}

func boundedRetry(n int, unit time.Duration) time.Duration {
	return min(time.Duration(n)*unit, maxRetryAfter)
}

// atoi reads digits that a pattern has found: they are few enough for any int.
func atoi(digits string) int {
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return n
}

// ruleRetry is the value of Rule.Retry.
func ruleRetry(r *Rule) time.Duration {
	d, err := time.ParseDuration(r.Retry)
	if err != nil {
		return 0
	}
	return d
}
