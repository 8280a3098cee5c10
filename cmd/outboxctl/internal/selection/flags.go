// Package selection turns flags, arguments and standard input into a store.Filter. All commands share it: with the same
// flags, one lists the deliveries that another changes.
package selection

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/store"
)

// Flags holds the filter flags.
type Flags struct {
	ids, states, routes  []string
	from, to             string
	class                string
	code                 int
	relay, key           string
	olderThan, newerThan string
	limit                int
}

// Add adds the flags to a command.
func (f *Flags) Add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringSliceVar(&f.ids, "id", nil, "message `IDS`, separated by commas")
	fl.StringSliceVar(&f.states, "state", nil, "`STATES`: "+strings.Join(stateNames(), ", "))
	fl.StringSliceVar(&f.routes, "route", nil, "`ROUTES`, separated by commas")
	fl.StringVar(&f.from, "from", "", "envelope sender `ADDRESS`, or @domain")
	fl.StringVar(&f.to, "to", "", "recipient `ADDRESS`, or @domain")
	fl.StringVar(&f.class, "class", "", "last `CLASS`: "+strings.Join(classNames(), ", "))
	fl.IntVar(&f.code, "code", 0, "last SMTP `CODE`, such as 550")
	fl.StringVar(&f.relay, "relay", "", "last relay `NAME`")
	fl.StringVar(&f.key, "key", "", "idempotency `KEY`")
	fl.StringVar(&f.olderThan, "older-than", "", "enqueued before this `AGE` (90m, 24h, 7d, 2w) or time (RFC 3339)")
	fl.StringVar(&f.newerThan, "newer-than", "", "enqueued within this `AGE` or since this time")
	fl.IntVar(&f.limit, "limit", 0, "at most `N` deliveries (default no limit)")
	for name, values := range map[string][]string{"state": stateNames(), "class": classNames()} {
		if err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
			panic(err) // the flag was added above
		}
	}
}

// Filter checks the flags and returns their filter without ids. Ages count back from now.
func (f *Flags) Filter(now time.Time) (store.Filter, error) {
	out := store.Filter{
		Routes: f.routes, From: f.from, To: f.to, Class: f.class, Code: f.code, Relay: f.relay, Key: f.key, Limit: f.limit,
	}
	for _, name := range f.states {
		state := outbox.State(strings.ToLower(strings.TrimSpace(name)))
		if !state.Valid() {
			hint := "the states are " + strings.Join(stateNames(), ", ")
			if state == "scheduled" || state == "deferred" {
				hint = "a delivery that is shown as " + string(state) + " has the state queued"
			}
			return out, exit.Usagef(hint, "--state: %q is not a state", name)
		}
		out.States = append(out.States, state)
	}
	for flag, address := range map[string]string{"from": f.from, "to": f.to} {
		if address != "" && (!strings.Contains(address, "@") || strings.HasSuffix(address, "@")) {
			return out, exit.Usagef("", "--%s: %q is neither an address nor @domain", flag, address)
		}
	}
	if f.class != "" && !slices.Contains(classNames(), f.class) {
		return out, exit.Usagef("the classes are "+strings.Join(classNames(), ", "), "--class: %q is not a class", f.class)
	}
	const lowest, highest = 200, 599
	if f.code != 0 && (f.code < lowest || f.code > highest) {
		return out, exit.Usagef("", "--code: %d is not an SMTP reply code", f.code)
	}
	if f.limit < 0 {
		return out, exit.Usagef("", "--limit: %d is negative", f.limit)
	}
	return f.between(out, now)
}

// between adds the limits of the time of enqueueing to a filter.
func (f *Flags) between(out store.Filter, now time.Time) (store.Filter, error) {
	for _, bound := range []struct {
		flag, value string
		to          *time.Time
	}{{"older-than", f.olderThan, &out.Before}, {"newer-than", f.newerThan, &out.After}} {
		if bound.value == "" {
			continue
		}
		t, err := ParseAgo(bound.value, now)
		if err != nil {
			return out, exit.Usagef("write 90m, 24h, 7d, 2w, or a time such as 2026-03-01T08:00:00Z", "--%s: %w", bound.flag, err)
		}
		*bound.to = t
	}
	if !out.Before.IsZero() && !out.After.IsZero() && !out.After.Before(out.Before) {
		return out, exit.Usagef("", "--older-than and --newer-than leave no time between them")
	}
	return out, nil
}

func stateNames() []string {
	var names []string
	for _, s := range outbox.States() {
		names = append(names, string(s))
	}
	return names
}

func classNames() []string {
	return []string{
		string(smtpx.ClassTransient), string(smtpx.ClassRecycle), string(smtpx.ClassThrottled), string(smtpx.ClassQuota),
		string(smtpx.ClassRecipient), string(smtpx.ClassMessage), string(smtpx.ClassConfig), string(smtpx.ClassUnreachable),
		string(smtpx.ClassAmbiguous),
	}
}

// ParseAgo parses an age, which counts back from now, or a time in RFC 3339.
func ParseAgo(s string, now time.Time) (time.Time, error) {
	return parseMoment(s, func(d time.Duration) time.Time { return now.Add(-d) })
}

// ParseAhead parses a duration, which counts from now, or a time in RFC 3339.
func ParseAhead(s string, now time.Time) (time.Time, error) { return parseMoment(s, now.Add) }

func parseMoment(s string, from func(time.Duration) time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	d, err := ParseDuration(s)
	if err != nil {
		return time.Time{}, err
	}
	return from(d), nil
}

// ParseDuration parses a positive duration in the syntax of Go, in days or in weeks: 90m, 1h30m, 7d, 2w.
func ParseDuration(s string) (time.Duration, error) {
	const day = 24 * time.Hour
	for suffix, unit := range map[string]time.Duration{"d": day, "w": 7 * day} {
		if number, ok := strings.CutSuffix(s, suffix); ok {
			n, err := strconv.ParseFloat(number, 64)
			if err != nil || !(n > 0) || n > float64(1<<62)/float64(unit) {
				return 0, &badDurationError{s}
			}
			return time.Duration(n * float64(unit)), nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, &badDurationError{s}
	}
	return d, nil
}

// badDurationError is the error of text that is neither a duration nor a time.
type badDurationError struct{ text string }

// Error quotes the text.
func (e *badDurationError) Error() string {
	return strconv.Quote(e.text) + " is neither a duration nor a time"
}
