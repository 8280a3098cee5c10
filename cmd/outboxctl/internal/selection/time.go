package selection

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ParseAgo parses an age, which counts back from now, or a time. A time of day is that of today, or of yesterday if it has not
// come yet.
func ParseAgo(s string, now time.Time) (time.Time, error) {
	return parseMoment(s, now, -1)
}

// ParseAhead parses a duration, which counts from now, or a time. A time of day is that of today, or of tomorrow if it has passed.
func ParseAhead(s string, now time.Time) (time.Time, error) { return parseMoment(s, now, 1) }

// moments are the forms of a time, besides RFC 3339. Without a zone they are in the zone of now.
var moments = []string{
	"2006-01-02", "2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02 15:04:05", "2006-01-02 15:04Z07:00",
}

// parseMoment parses a time, or a duration in the direction.
func parseMoment(s string, now time.Time, direction int) (time.Time, error) {
	s = strings.TrimSpace(s)
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	for _, layout := range moments {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	midnight := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
	switch strings.ToLower(s) {
	case "now":
		return now, nil
	case "today":
		return midnight, nil
	case "yesterday":
		return midnight.AddDate(0, 0, -1), nil
	case "tomorrow":
		return midnight.AddDate(0, 0, 1), nil
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		if clock, err := time.Parse(layout, s); err == nil {
			t := time.Date(now.Year(), now.Month(), now.Day(), clock.Hour(), clock.Minute(), clock.Second(), 0, now.Location())
			if direction < 0 && t.After(now) || direction > 0 && t.Before(now) {
				t = t.AddDate(0, 0, direction)
			}
			return t, nil
		}
	}
	d, err := ParseDuration(s)
	if err != nil {
		return time.Time{}, err
	}
	return now.Add(time.Duration(direction) * d), nil
}

// ParseDuration parses a positive duration in units from weeks to nanoseconds: 90m, 1h30m, 7d, 2w, 1d12h. A number behind a unit
// counts in the next smaller one, so that 1h30 is an hour and a half.
func ParseDuration(s string) (time.Duration, error) {
	const day = 24 * time.Hour
	var total time.Duration
	rest := s
	for _, unit := range []struct {
		suffix string
		length time.Duration
	}{{"w", 7 * day}, {"d", day}} {
		number, after, ok := strings.Cut(rest, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(number, 64)
		if err != nil || !(n > 0) || n > float64(1<<62)/float64(unit.length) || strings.HasPrefix(number, "+") {
			return 0, &badDurationError{s}
		}
		total += time.Duration(n * float64(unit.length))
		rest = after
	}
	if rest == "" && total > 0 {
		return total, nil
	}
	if hours, minutes, ok := strings.Cut(rest, "h"); ok && minutes != "" && strings.Trim(minutes, "0123456789") == "" {
		rest = hours + "h" + minutes + "m"
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d <= 0 || total+d <= 0 {
		return 0, &badDurationError{s}
	}
	return total + d, nil
}

// badDurationError is the error of text that is neither a duration nor a time.
type badDurationError struct{ text string }

// Error quotes the text.
func (e *badDurationError) Error() string {
	return fmt.Sprintf("%q is neither a duration nor a time", e.text)
}
