package selection

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/store"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// parse parses flags as the command line would.
func parse(t *testing.T, args ...string) *Flags {
	t.Helper()
	flags := new(Flags)
	cmd := &cobra.Command{Use: "x", Run: func(*cobra.Command, []string) {}}
	flags.Add(cmd)
	cmd.SetArgs(args)
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	return flags
}

func TestFilter(t *testing.T) {
	for _, tt := range []struct {
		args string
		want store.Filter
	}{
		{"", store.Filter{}},
		{"--state failed,Queued --state sent", store.Filter{States: []outbox.State{"failed", "queued", "sent"}}},
		{"--route a,b --from @x.example --to ann@y.example", store.Filter{Routes: []string{"a", "b"}, From: "@x.example", To: "ann@y.example"}},
		{"--class config --code 535 --relay r --key k --limit 5", store.Filter{Class: "config", Code: 535, Relay: "r", Key: "k", Limit: 5}},
		{"--older-than 90m", store.Filter{Before: now.Add(-90 * time.Minute)}},
		{"--newer-than 7d --older-than 1d", store.Filter{After: now.Add(-7 * 24 * time.Hour), Before: now.Add(-24 * time.Hour)}},
		{"--state scheduled,deferred", store.Filter{States: []outbox.State{"scheduled", "deferred"}}},
		{"--tag t --subject s --metadata a=b=c --metadata d=", store.Filter{Tag: "t", Subject: "s", Metadata: map[string]string{"a": "b=c", "d": ""}}},
		{"--since 1h --until 30m", store.Filter{Since: now.Add(-time.Hour), Until: now.Add(-30 * time.Minute)}},
		{"--newer-than 2026-02-28T12:00:00+01:00", store.Filter{After: time.Date(2026, 2, 28, 11, 0, 0, 0, time.UTC)}},
	} {
		t.Run(tt.args, func(t *testing.T) {
			got, err := parse(t, strings.Fields(tt.args)...).Filter(now)
			got.After = got.After.UTC()
			if tt.want.After.IsZero() {
				got.After = time.Time{}
			}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

func TestFilterRefuses(t *testing.T) {
	for args, want := range map[string]string{
		"--state queud":                      `"queud" is not a state`,
		"--to example.com":                   "neither an address nor @domain",
		"--to *@example.com":                 "is a pattern",
		"--metadata customer":                `"customer" is not NAME=VALUE`,
		"--since 1h --until 2h":              "no time between them",
		"--state failed,":                    `"" is not a state`,
		"--from shop":                        "neither an address nor @domain",
		"--to ann@":                          "neither an address nor @domain",
		"--class temporary":                  `"temporary" is not a class`,
		"--code 99":                          "99 is not an SMTP reply code",
		"--code 600":                         "600 is not an SMTP reply code",
		"--limit -1":                         "-1 is negative",
		"--older-than 5":                     `"5" is neither`,
		"--older-than -5m":                   `"-5m" is neither`,
		"--newer-than 2026-02-30":            `"2026-02-30" is neither`,
		"--older-than 2d --newer-than 1d":    "no time between them",
		"--older-than 1d --newer-than 24h":   "no time between them",
		"--older-than 99999999999999999999d": "is neither",
	} {
		_, err := parse(t, strings.Fields(args)...).Filter(now)
		if _, _, code := exit.Explain(err); err == nil || !strings.Contains(err.Error(), want) || code != exit.Usage {
			t.Errorf("%s: %v (code %d), want %q", args, err, code, want)
		}
	}
}

// book is a Finder that knows messages by short names.
type book map[string]outbox.ID

func (b book) Find(_ context.Context, name string) (outbox.ID, error) {
	if id, ok := b[name]; ok {
		return id, nil
	}
	return "", store.ErrNotFound
}

const (
	idA = outbox.ID("01934a5b-c6d7-7e8f-9a0b-1c2d3e4f5a6a")
	idB = outbox.ID("01934a5b-c6d7-7e8f-9a0b-1c2d3e4f5a6b")
)

func TestResolve(t *testing.T) {
	known := book{"a": idA, "b": idB, string(idA): idA}
	for _, tt := range []struct {
		name, flags string
		args        []string
		input       string
		want        []outbox.ID
		recipients  []store.DeliveryID
		named       bool
		err         error
	}{
		{name: "nothing"},
		{name: "arguments", args: []string{"a", "b"}, want: []outbox.ID{idA, idB}, named: true},
		{name: "flags", flags: "--id b,a", want: []outbox.ID{idB, idA}, named: true},
		{name: "twice", flags: "--id a", args: []string{"a", string(idA)}, want: []outbox.ID{idA}, named: true},
		{name: "recipients", args: []string{"a/2", "b", "a/2", "a/1"}, want: []outbox.ID{idB}, recipients: []store.DeliveryID{{ID: idA, Seq: 2}, {ID: idA, Seq: 1}}, named: true},
		{name: "recipients on input", args: []string{"-"}, input: string(idB) + "/12\tfailed\n", recipients: []store.DeliveryID{{ID: idB, Seq: 12}}, named: true},
		{name: "unknown", args: []string{"c"}, err: store.ErrNotFound},
		{name: "input", args: []string{"-"}, input: "a\n\n  b\tqueued\tmore\n", want: []outbox.ID{idA, idB}, named: true},
		{name: "whole id on input is not looked up", args: []string{"-"}, input: string(idB), want: []outbox.ID{idB}, named: true},
		{name: "mark", args: []string{"-"}, input: "\ufeff" + string(idB) + "\r\na\r\n", want: []outbox.ID{idB, idA}, named: true},
		{name: "mark alone", args: []string{"-"}, input: "\ufeff\r\n", named: true},
		{name: "empty input chooses nothing, not everything", args: []string{"-"}, named: true},
		{name: "unknown on input", args: []string{"-"}, input: "a\nc\n", err: store.ErrNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			names, err := parse(t, strings.Fields(tt.flags)...).Names(tt.args)
			if err != nil {
				t.Fatal(err)
			}
			if names.None() == (tt.named || tt.err != nil) {
				t.Errorf("None() = %t", names.None())
			}
			s, err := names.Resolve(t.Context(), store.Filter{Limit: 3}, strings.NewReader(tt.input), known)
			if tt.err != nil {
				if !errors.Is(err, tt.err) {
					t.Fatalf("%v, want %v", err, tt.err)
				}
				return
			}
			if err != nil || !slices.Equal(s.IDs, tt.want) || !slices.Equal(s.Deliveries, tt.recipients) || s.Named != tt.named || s.Filter.Limit != 3 {
				t.Errorf("%+v, %v; want %v, %t", s, err, tt.want, tt.named)
			}
		})
	}
	if _, err := new(Flags).Names([]string{"-", "a"}); err == nil {
		t.Error(`"-" together with an id is accepted`)
	}
	names, err := new(Flags).Names([]string{"-"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = names.Resolve(t.Context(), store.Filter{}, strings.NewReader("\xff\xfea\x00\n\x00"), known)
	if err == nil || !strings.Contains(err.Error(), "the text is in UTF-16 (little-endian): save it as UTF-8") {
		t.Errorf("input in UTF-16: %v", err)
	}
	broken := errors.New("broken")
	if _, err := names.Resolve(t.Context(), store.Filter{}, iotest.ErrReader(broken), known); !errors.Is(err, broken) {
		t.Errorf("a broken input: %v", err)
	}
}

func TestWhole(t *testing.T) {
	ids := make([]outbox.ID, 40_000)
	for i := range ids {
		ids[i] = outbox.ID(strconv.Itoa(i))
	}
	for _, tt := range []struct {
		name string
		s    Selection
		none bool
	}{
		{name: "no ids", s: Selection{Filter: store.Filter{Limit: 7}}},
		{name: "named, but none", s: Selection{Named: true}, none: true},
		{name: "many ids", s: Selection{Named: true, IDs: ids, Filter: store.Filter{Limit: 12}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, ok := tt.s.Whole()
			if ok == tt.none || !slices.Equal(f.IDs, tt.s.IDs) || f.Limit != tt.s.Filter.Limit {
				t.Errorf("%d ids, limit %d, %t", len(f.IDs), f.Limit, ok)
			}
		})
	}
}

func TestSplit(t *testing.T) {
	for name, want := range map[string]string{
		"abcd": "abcd 0", "abcd/2": "abcd 2", "abcd/0": "abcd/0 0", "abcd/x": "abcd/x 0", "abcd/": "abcd/ 0", "abcd/+1": "abcd/+1 0",
		"abcd/-1": "abcd/-1 0", "<a@b>": "<a@b> 0", "<a@b>/3": "<a@b> 3", "<a/3@b>": "<a/3@b> 0", "a@b/3": "a@b/3 0", "a/b/3": "a/b 3",
		"abcd/99999999999999999999": "abcd/99999999999999999999 0",
	} {
		if id, seq := Split(name); id+" "+strconv.Itoa(seq) != want {
			t.Errorf("Split(%q) = %q, %d; want %s", name, id, seq, want)
		}
	}
}

// People type dates and times in many forms.
func TestParseMoments(t *testing.T) {
	zone := time.FixedZone("", 2*60*60)
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, zone)
	for s, want := range map[string]time.Time{
		"2026-02-26":          time.Date(2026, 2, 26, 0, 0, 0, 0, zone),
		"2026-02-26T05:00":    time.Date(2026, 2, 26, 5, 0, 0, 0, zone),
		"2026-02-26 05:00":    time.Date(2026, 2, 26, 5, 0, 0, 0, zone),
		"2026-02-26 05:00:07": time.Date(2026, 2, 26, 5, 0, 7, 0, zone),
		"2026-02-26 05:00Z":   time.Date(2026, 2, 26, 5, 0, 0, 0, time.UTC),
		"05:00":               time.Date(2026, 3, 1, 5, 0, 0, 0, zone),
		"23:00":               time.Date(2026, 2, 28, 23, 0, 0, 0, zone),
		"yesterday":           time.Date(2026, 2, 28, 0, 0, 0, 0, zone),
		"Today":               time.Date(2026, 3, 1, 0, 0, 0, 0, zone),
		"1h30":                at.Add(-90 * time.Minute),
		"1d12h":               at.Add(-36 * time.Hour),
		"1w1d":                at.Add(-8 * 24 * time.Hour),
		"1.5d":                at.Add(-36 * time.Hour),
	} {
		if got, err := ParseAgo(s, at); err != nil || !got.Equal(want) {
			t.Errorf("ParseAgo(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	if got, err := ParseAhead("05:00", at); err != nil || !got.Equal(time.Date(2026, 3, 2, 5, 0, 0, 0, zone)) {
		t.Errorf("the next 05:00 is %v, %v", got, err)
	}
	for _, s := range []string{"", "5", "-5m", "2026-02-30", "25:00", "1d-2h", "d", "1h30x", "+1d", "0d", "3mo", "1d1d"} {
		if got, err := ParseAgo(s, at); err == nil {
			t.Errorf("ParseAgo(%q) = %v", s, got)
		}
	}
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"90m", "1h30m", "7d", "2w", "0.5d", "-1d", "NaNd", "Infw", "1e300d", "", "d", "1dd", "106751d", "292y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDuration(s); err == nil && d <= 0 {
			t.Errorf("ParseDuration(%q) = %v, which is not positive", s, d)
		}
	})
}
