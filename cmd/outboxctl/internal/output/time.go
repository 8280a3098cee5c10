package output

import (
	"fmt"
	"time"
)

// Time returns a cell that holds a time: in RFC 3339 for programs, relative to now for people. The zero time gives an
// empty cell.
func Time(t, now time.Time) Cell {
	if t.IsZero() {
		return Cell{}
	}
	return Cell{Text: t.UTC().Format(time.RFC3339), Short: Relative(t, now)}
}

// Relative returns the distance of a time from now, such as "3m ago" or "in 2h00m".
func Relative(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case d.Abs() < time.Second:
		return "now"
	case d > 0:
		return Duration(d) + " ago"
	default:
		return "in " + Duration(-d)
	}
}

// Duration formats a duration in its largest unit, from milliseconds to days. From one hour to ten it also has the minutes.
func Duration(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 10*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	case d < 3*day:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d/day))
	}
}
