package output

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/iostreams"
)

// thing is what the tests print.
type thing struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Empty string `json:"empty,omitempty"`
	// A field without a name in JSON is not part of the contract.
	Hidden int `json:"-"`
}

var all = []Format{Table, JSON, NDJSON, TSV, ID}

// printer parses flags as the command line would and returns a printer that writes to out.
func printer(t *testing.T, s *iostreams.Streams, args ...string) (*Printer, error) {
	t.Helper()
	var flags Flags
	cmd := &cobra.Command{Use: "x", RunE: func(*cobra.Command, []string) error { return nil }, SilenceErrors: true, SilenceUsage: true}
	flags.Add(cmd, thing{}, all...)
	cmd.SetArgs(args)
	if err := cmd.Execute(); err != nil {
		return nil, err
	}
	return flags.Printer(s)
}

func TestFlags(t *testing.T) {
	for _, tt := range []struct {
		args  string
		tty   bool
		want  Format
		error string
	}{
		{args: "", tty: true, want: Table},
		{args: "", tty: false, want: TSV},
		{args: "-o json", tty: true, want: JSON},
		{args: "--output id", want: ID},
		{args: "--json id,name", tty: true, want: JSON},
		{args: "--json id -o ndjson", want: NDJSON},
		{args: "-o xml", error: `the output format "xml" is not one`},
		{args: "--json id,colour", error: `there is no field "colour"`},
		{args: "--json hidden", error: `there is no field "hidden"`},
		{args: "--json", error: "--json needs fields"},
		{args: "--json id -o tsv", error: "does not go with --output tsv"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			p, err := printer(t, &iostreams.Streams{OutTTY: tt.tty}, strings.Fields(tt.args)...)
			if tt.error != "" {
				if _, _, code := exit.Explain(err); err == nil || !strings.Contains(err.Error(), tt.error) || code != exit.Usage {
					t.Fatalf("%v (code %d), want %q", err, code, tt.error)
				}
				return
			}
			if err != nil || p.Format() != tt.want {
				t.Errorf("format %v, %v; want %s", p, err, tt.want)
			}
		})
	}
}

// things yields n things and then, if it is not nil, an error.
func things(n int, err error) iter.Seq2[thing, error] {
	return func(yield func(thing, error) bool) {
		for i := range n {
			if !yield(thing{ID: fmt.Sprintf("id%d", i/2), Name: fmt.Sprintf("<thing> %d", i)}, nil) {
				return
			}
		}
		if err != nil {
			yield(thing{}, err)
		}
	}
}

var list = List[thing]{
	Name:    "things",
	Columns: []Column{{Title: "ID"}, {Title: "NAME", Shrink: true}},
	JSON:    func(v thing) any { return v },
	ID:      func(v thing) string { return v.ID },
	Cells:   func(v thing) []Cell { return []Cell{Text(v.ID), Text(v.Name)} },
}

func TestListFormats(t *testing.T) {
	for _, tt := range []struct {
		args string
		n    int
		want string
	}{
		{"-o table", 3, "ID   NAME\nid0  <thing> 0\nid0  <thing> 1\nid1  <thing> 2\n"},
		{"-o tsv", 2, "id0\t<thing> 0\nid0\t<thing> 1\n"},
		{"-o id", 4, "id0\nid1\n"},
		{"-o ndjson", 1, `{"schema_version":1,"id":"id0","name":"<thing> 0"}` + "\n"},
		{"-o json", 2, `{"schema_version": 1, "things": [` + "\n  " + `{"id":"id0","name":"<thing> 0"},` + "\n  " +
			`{"id":"id0","name":"<thing> 1"}` + "\n]}\n"},
		{"--json name,empty", 1, `{"schema_version": 1, "things": [` + "\n  " + `{"name":"<thing> 0","empty":null}` + "\n]}\n"},
		{"--json name -o ndjson", 1, `{"schema_version":1,"name":"<thing> 0"}` + "\n"},
		{"-o table", 0, ""},
		{"-o tsv", 0, ""},
		{"-o id", 0, ""},
		{"-o ndjson", 0, ""},
		{"-o json", 0, `{"schema_version": 1, "things": []}` + "\n"},
	} {
		t.Run(fmt.Sprint(tt.args, tt.n), func(t *testing.T) {
			var out strings.Builder
			p, err := printer(t, &iostreams.Streams{Out: &out}, strings.Fields(tt.args)...)
			if err != nil {
				t.Fatal(err)
			}
			n, err := list.Print(p, things(tt.n, nil))
			if err != nil || n != tt.n || out.String() != tt.want {
				t.Errorf("%d, %v:\n%q\nwant\n%q", n, err, out.String(), tt.want)
			}
		})
	}
}

// A list that ends early must not look complete.
func TestListThatBreaksOff(t *testing.T) {
	broken := errors.New("broken")
	for _, format := range all {
		var out strings.Builder
		p, err := printer(t, &iostreams.Streams{Out: &out}, "-o", string(format))
		if err != nil {
			t.Fatal(err)
		}
		n, err := list.Print(p, things(3, broken))
		if !errors.Is(err, broken) || n != 3 {
			t.Errorf("%s: %d, %v", format, n, err)
		}
		if format == JSON && json.Valid([]byte(out.String())) {
			t.Errorf("half a list is valid JSON:\n%s", out.String())
		}
	}
}

// failing is a writer that fails after some number of bytes.
type failing struct{ left int }

var errFull = errors.New("full")

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestListToAFullDisk(t *testing.T) {
	for _, format := range all {
		p, err := printer(t, &iostreams.Streams{Out: &failing{left: 100}}, "-o", string(format))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := list.Print(p, things(5000, nil)); !errors.Is(err, errFull) {
			t.Errorf("%s: %v, want the error of the disk", format, err)
		}
	}
}

func TestObject(t *testing.T) {
	rows := func(r *Rows) {
		r.Pair("name", Text("a\tb"))
		r.Pair("empty", Text(""))
		r.Section("Heading", Column{Title: "N", Right: true})
		r.Add(Int(7))
	}
	for args, want := range map[string]string{
		"-o json":         "{\n  \"schema_version\": 1,\n  \"id\": \"i\",\n  \"name\": \"n\"\n}\n",
		"-o ndjson":       `{"schema_version":1,"id":"i","name":"n"}` + "\n",
		"--json name":     "{\n  \"schema_version\": 1,\n  \"name\": \"n\"\n}\n",
		"-o id":           "the-id\n",
		"-o table":        "name  a b\n\nHeading\nN\n7\n",
		"-o tsv":          "name\ta b\nempty\t\n7\n",
		"-o table --json": "",
	} {
		var out strings.Builder
		p, err := printer(t, &iostreams.Streams{Out: &out}, strings.Fields(args)...)
		if want == "" {
			if err == nil {
				t.Errorf("%s is accepted", args)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Object(thing{ID: "i", Name: "n"}, "the-id", rows); err != nil || out.String() != want {
			t.Errorf("%s: %v\n%q\nwant\n%q", args, err, out.String(), want)
		}
	}
}

func TestTableOnATerminal(t *testing.T) {
	var out strings.Builder
	p := &Printer{out: &out, format: Table, streams: &iostreams.Streams{OutTTY: true, Width: 34, OutColor: true}}
	r := p.rows(Column{Title: "STATE"}, Column{Title: "SUBJECT", Shrink: true}, Column{Title: "N", Right: true},
		Column{Title: "LAST", Shrink: true})
	r.Add(Cell{Text: "failed", Color: iostreams.Red}, Text("日本語の件名はとても長いことがあります"), Int(3), Cell{Text: "2026-01-01T00:00:00Z", Short: "3m ago"})
	r.Add(Text("sent"), Text("short"), Int(12), Text(""))
	r.flush()
	want := "\x1b[2mSTATE\x1b[0m   \x1b[2mSUBJECT\x1b[0m          \x1b[2mN\x1b[0m  \x1b[2mLAST\x1b[0m\n" +
		"\x1b[31mfailed\x1b[0m  日本語の件名…    3  3m ago\n" +
		"sent    short           12\n"
	if out.String() != want || r.err != nil {
		t.Errorf("table (%v):\n%q\nwant\n%q", r.err, out.String(), want)
	}
}

// The widths of the first rows also serve for later rows, which are written at once.
func TestTableOfManyRows(t *testing.T) {
	var out strings.Builder
	r := (&Printer{out: &out, format: Table, streams: &iostreams.Streams{}}).rows(Column{Title: "A"}, Column{Title: "B"})
	for range measured {
		r.Add(Text("x"), Text("y"))
	}
	if got := strings.Count(out.String(), "\n"); got != measured+1 {
		t.Errorf("after %d rows %d lines were written", measured, got)
	}
	out.Reset()
	r.Add(Text("wider than before"), Text("y"))
	r.flush()
	if out.String() != "wider than before  y\n" {
		t.Errorf("a later row: %q", out.String())
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain ünïcode 日本":           "plain ünïcode 日本",
		"a\tb\r\nc":                  "a b  c",
		"\x1b[31mred\x07":            "�[31mred�",
		"c1 \u009b31m del\x7f":       "c1 �31m del�",
		"line\u2028para\u2029":       "line�para�",
		"\u202egnp.exe\u202c \u2066": "�gnp.exe� �",
		"nul\x00":                    "nul�",
		"\xff\xfe":                   "��",
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestRelative(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0: "now", 999 * time.Millisecond: "now", -999 * time.Millisecond: "now",
		time.Second: "1s ago", -59 * time.Second: "in 59s", 60 * time.Second: "1m ago", 59 * time.Minute: "59m ago",
		time.Hour: "1h00m ago", -(9*time.Hour + 5*time.Minute): "in 9h05m", 10 * time.Hour: "10h ago", 71 * time.Hour: "71h ago",
		72 * time.Hour: "3d ago", -400 * 24 * time.Hour: "in 400d",
	} {
		if got := Relative(now.Add(-d), now); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	if got := Duration(1500 * time.Microsecond); got != "1ms" {
		t.Errorf("Duration = %q", got)
	}
	if got := Time(time.Time{}, now); got != (Cell{}) {
		t.Errorf("the zero time is %+v", got)
	}
	zone := time.FixedZone("", 3600)
	if got := Time(now.In(zone), now); got.Text != "2026-03-01T12:00:00Z" {
		t.Errorf("a time in another zone is %+v", got)
	}
}
