package doctor

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// coded puts the code and the enhanced code before the words of a relay. Words that begin with the code stay as they are.
func coded(code int, enhanced, words string) string {
	text := words
	if enhanced != "" && !strings.HasPrefix(words, enhanced) {
		text = enhanced + " " + words
	}
	if number := strconv.Itoa(code); code != 0 && !strings.HasPrefix(words, number) {
		text = number + " " + text
	}
	return strings.TrimSpace(text)
}

// counted writes a number with a noun or a clause.
func counted(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + many
}

// number writes a number with commas between groups of three digits.
func number(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// span writes a duration in its largest units: 40s, 5m, 2h05m, 3d.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 2*day:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd", int(d/day))
	}
}
