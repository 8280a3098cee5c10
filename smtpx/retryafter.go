package smtpx

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter is the longest wait that a reply can ask for. A longer wait is cut to it: the relay is tried once a day.
const maxRetryAfter = 24 * time.Hour

// How often to look whether an allowance is back when the reply names the period and not its end. Most periods roll: a part
// of the allowance is back long before the period is over.
const (
	shortPause  = time.Minute
	mediumPause = 10 * time.Minute
	longPause   = time.Hour
)

const (
	moment = `\b(?:until|till|before|after|resets?(?: at| on)?|again (?:at|on)|expires?(?: at| on)?) `
	months = `jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec`
	zones  = `z|utc|gmt|[+-]\d{2}:?\d{2}`
)

var (
	// statedWait finds "try again in 5 minutes", "greylisted for 300 seconds", "retry after 60s", "wait at least 1 hour". A few
	// other words may stand before the number, but no end of a sentence.
	statedWait = regexp.MustCompile(`\b(?:again|retry|retrying|wait|come back|resend|reconnect|gr[ea]ylist\w*|blocked|suspended|delayed)\b` +
		`[^.;0-9]{0,40}?\b(\d{1,6}) ?(seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)\b`)
	// statedDate and statedISO find "until Mon, 01 Jan 2035 10:00:00 UTC" and "not before 2035-01-01T10:00:00Z".
	statedDate = regexp.MustCompile(moment + `(?:\w{3,9},? )?(\d{1,2}) (` + months + `)\w{0,6},? (\d{4}),? ` +
		`(\d{1,2}:\d{2})(:\d{2})? ?(` + zones + `)?`)
	statedISO = regexp.MustCompile(moment + `(\d{4}-\d{2}-\d{2})[t ](\d{2}:\d{2})(:\d{2})?(?:\.\d+)? ?(` + zones + `)?`)
	// statedClock finds "come back in 00:04:59", as milter-greylist has it.
	statedClock = regexp.MustCompile(`\b(?:again|retry|wait|come back)\b[^.;0-9]{0,40}?\b(\d{1,3}):([0-5]\d):([0-5]\d)\b`)
)

// retryAfter returns how long to wait after a refusal. The reply goes first, then the rule, then the period that the reply
// names. It returns 0 if nothing is known.
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

// statedRetry reads the wait that a reply asks for, 0 for none. The text is in lower case with single spaces.
func statedRetry(text string) time.Duration {
	if d := statedMoment(text, time.Now()); d > 0 {
		return d
	}
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

// statedMoment reads the moment until which a reply asks to wait, as the time from now on, 0 for none.
func statedMoment(text string, now time.Time) time.Duration {
	if m := statedDate.FindStringSubmatch(text); m != nil {
		return untilMoment(now, m[1]+" "+m[2]+" "+m[3]+" "+m[4]+cmp.Or(m[5], ":00"), "2 jan 2006 15:04:05", m[6])
	}
	if m := statedISO.FindStringSubmatch(text); m != nil {
		return untilMoment(now, m[1]+" "+m[2]+cmp.Or(m[3], ":00"), "2006-01-02 15:04:05", m[4])
	}
	return 0
}

// untilMoment returns the time from now until a moment. The zone is "", "z", "utc", "gmt", "+0200" or "+02:00"; without one
// it is UTC.
func untilMoment(now time.Time, text, layout, zone string) time.Duration {
	at, err := time.Parse(layout, text)
	if err != nil {
		return 0
	}
	if len(zone) >= len("+0000") {
		digits := strings.ReplaceAll(zone[1:], ":", "")
		offset := time.Duration(atoi(digits[:2]))*time.Hour + time.Duration(atoi(digits[2:]))*time.Minute
		if zone[0] == '+' {
			offset = -offset
		}
		at = at.Add(offset)
	}
	return min(max(0, at.Sub(now)), maxRetryAfter)
}

func boundedRetry(n int, unit time.Duration) time.Duration {
	return min(time.Duration(n)*unit, maxRetryAfter)
}

// atoi reads the digits that a pattern found. They fit any int.
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
