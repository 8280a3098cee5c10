// Package selection turns flags, arguments and standard input into a store.Filter. All commands share it: with the same
// flags, one lists the deliveries that another changes.
package selection

import (
	"slices"
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
	tag, subject         string
	metadata             []string
	olderThan, newerThan string
	since, until         string
	limit                int
}

// Add adds the flags to a command.
func (f *Flags) Add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringSliceVar(&f.ids, "id", nil, "`IDS` of messages, or ID/SEQ of recipients")
	fl.StringSliceVar(&f.states, "state", nil, "`STATES`: "+strings.Join(stateNames(), ", "))
	fl.StringSliceVar(&f.routes, "route", nil, "`ROUTES`, separated by commas")
	fl.StringVar(&f.from, "from", "", "envelope sender `ADDRESS`, or @domain")
	fl.StringVar(&f.to, "to", "", "recipient `ADDRESS`, or @domain")
	fl.StringVar(&f.class, "class", "", "last `CLASS`: "+strings.Join(classNames(), ", "))
	fl.IntVar(&f.code, "code", 0, "last SMTP `CODE`, such as 550")
	fl.StringVar(&f.relay, "relay", "", "last relay `NAME`")
	fl.StringVar(&f.key, "key", "", "idempotency `KEY`")
	fl.StringVar(&f.tag, "tag", "", "`TAG` of the message")
	fl.StringArrayVar(&f.metadata, "metadata", nil, "`NAME=VALUE` in the metadata; repeat it for more")
	fl.StringVar(&f.subject, "subject", "", "`TEXT` in the subject")
	fl.StringVar(&f.olderThan, "older-than", "", "enqueued before this `AGE` (90m, 24h, 7d, 2w) or time")
	fl.StringVar(&f.newerThan, "newer-than", "", "enqueued within this `AGE` or since this time")
	fl.StringVar(&f.since, "since", "", "last changed within this `AGE` or since this time")
	fl.StringVar(&f.until, "until", "", "last changed before this `AGE` or time")
	fl.IntVar(&f.limit, "limit", 0, "at most `N` deliveries (default no limit)")
	for name, values := range map[string][]string{"state": stateNames(), "class": classNames()} {
		if err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
			panic(err) // the flag was added above
		}
	}
}

// HasStates reports whether --state was given.
func (f *Flags) HasStates() bool { return len(f.states) > 0 }

// Filter checks the flags and returns their filter without ids. Ages count back from now.
func (f *Flags) Filter(now time.Time) (store.Filter, error) {
	out := store.Filter{
		Routes: f.routes, From: f.from, To: f.to, Class: f.class, Code: f.code, Relay: f.relay, Key: f.key,
		Tag: f.tag, Subject: f.subject, Limit: f.limit,
	}
	for _, pair := range f.metadata {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return out, exit.Usagef("write --metadata customer=C-1001", "--metadata: %q is not NAME=VALUE", pair)
		}
		if out.Metadata == nil {
			out.Metadata = make(map[string]string)
		}
		out.Metadata[name] = value
	}
	for _, name := range f.states {
		state := outbox.State(strings.ToLower(strings.TrimSpace(name)))
		if !slices.Contains(stateNames(), string(state)) {
			return out, exit.Usagef("the states are "+strings.Join(stateNames(), ", "), "--state: %q is not a state", name)
		}
		out.States = append(out.States, state)
	}
	for flag, address := range map[string]string{"from": f.from, "to": f.to} {
		if domain, ok := strings.CutPrefix(address, "*@"); ok {
			return out, exit.Usagef("for a domain write @"+domain, "--%s: %q is a pattern, not an address", flag, address)
		}
		if address != "" && (!strings.Contains(address, "@") || strings.HasSuffix(address, "@")) {
			hint := ""
			if address = strings.TrimSuffix(address, "@"); strings.Contains(address, ".") {
				hint = "for a domain write @" + address
			}
			return out, exit.Usagef(hint, "--%s: %q is neither an address nor @domain", flag, address)
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

// between adds the limits of time to a filter.
func (f *Flags) between(out store.Filter, now time.Time) (store.Filter, error) {
	for _, bound := range []struct {
		flag, value string
		to          *time.Time
	}{
		{"older-than", f.olderThan, &out.Before}, {"newer-than", f.newerThan, &out.After},
		{"since", f.since, &out.Since}, {"until", f.until, &out.Until},
	} {
		if bound.value == "" {
			continue
		}
		t, err := ParseAgo(bound.value, now)
		if err != nil {
			return out, exit.Usagef("write 90m, 24h, 7d, 1d12h, 05:00, 2026-03-01, \"2026-03-01 08:00\" or 2026-03-01T08:00:00Z",
				"--%s: %w", bound.flag, err)
		}
		*bound.to = t
	}
	if !out.Before.IsZero() && !out.After.IsZero() && !out.After.Before(out.Before) {
		return out, exit.Usagef("", "--older-than and --newer-than leave no time between them")
	}
	if !out.Since.IsZero() && !out.Until.IsZero() && !out.Since.Before(out.Until) {
		return out, exit.Usagef("", "--since and --until leave no time between them")
	}
	return out, nil
}

func stateNames() []string {
	var names []string
	for _, s := range outbox.States() {
		names = append(names, string(s))
	}
	return append(names, string(store.Scheduled), string(store.Deferred))
}

func classNames() []string {
	return []string{
		string(smtpx.ClassTransient), string(smtpx.ClassRecycle), string(smtpx.ClassThrottled), string(smtpx.ClassQuota),
		string(smtpx.ClassRecipient), string(smtpx.ClassMessage), string(smtpx.ClassConfig), string(smtpx.ClassUnreachable),
		string(smtpx.ClassAmbiguous),
	}
}
