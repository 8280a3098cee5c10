package command

import (
	"context"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/iostreams"
	"github.com/outboxmail/outbox/store"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// testApp returns an app that reads from in and writes to two builders.
func testApp(in string) (*app, *strings.Builder, *strings.Builder) {
	var out, err strings.Builder
	return &app{
		io:  &iostreams.Streams{In: strings.NewReader(in), Out: &out, Err: &err, Getenv: func(string) string { return "" }},
		now: func() time.Time { return now },
	}, &out, &err
}

func TestEnqueueMessage(t *testing.T) {
	a, _, _ := testApp("from standard input")
	var got *outbox.Message
	cmd := newEnqueue(a, func(_ context.Context, opts *enqueueOptions) (err error) {
		got, err = opts.message()
		return err
	})
	cmd.SetArgs([]string{
		"--from", "Shop <shop@example.com>", "--to", "a@x.example, B <b@x.example>", "--to", "c@x.example", "--cc", "d@x.example",
		"--bcc", "e@x.example", "--reply-to", "f@x.example", "--subject", "s", "--text-file", "-", "--html", "<p>",
		"--header", "X-A: 1", "--header", "X-A:2", "--key", "k", "--route", "r", "--priority", "high", "--not-before", "90m",
		"--expires", "2026-03-02T00:00:00Z", "--on-uncertain", "hold", "--tag", "t", "--metadata", "m=n", "--envelope-from", "<>",
	})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	address := func(s string) outbox.Address { return outbox.Address{Address: s} }
	want := &outbox.Message{
		From: outbox.Address{Name: "Shop", Address: "shop@example.com"},
		To:   []outbox.Address{address("a@x.example"), {Name: "B", Address: "b@x.example"}, address("c@x.example")},
		Cc:   []outbox.Address{address("d@x.example")}, Bcc: []outbox.Address{address("e@x.example")},
		ReplyTo: []outbox.Address{address("f@x.example")}, Subject: "s", Text: "from standard input", HTML: "<p>",
		Header: map[string][]string{"X-A": {"1", "2"}}, Key: "k", Route: "r", Priority: outbox.High,
		NotBefore: now.Add(90 * time.Minute), Expires: time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC), OnUncertain: outbox.Hold,
		Tags: []string{"t"}, Metadata: map[string]string{"m": "n"}, EnvelopeFrom: "<>",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("message:\n%+v\nwant\n%+v", got, want)
	}
}

func TestIncompatibleFlags(t *testing.T) {
	for _, args := range []string{
		"--eml x --subject s", "--eml x --text t", "--eml x --header a:b", "--text t --text-file f", "--html h --html-file f",
	} {
		a, _, _ := testApp("")
		cmd := newEnqueue(a, func(context.Context, *enqueueOptions) error { return errors.New("it ran") })
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs(strings.Fields(args))
		err := cmd.Execute()
		if _, _, code := exit.Explain(err); code != exit.Usage || !strings.Contains(err.Error(), "do not go together") {
			t.Errorf("%s: %v (code %d)", args, err, code)
		}
	}
}

// choose returns the filter that an operation makes of its arguments.
func choose(t *testing.T, op store.Operation, args ...string) (store.Filter, error) {
	t.Helper()
	a, _, _ := testApp("")
	var filter store.Filter
	for _, o := range operations() {
		if o.op != op {
			continue
		}
		cmd := newOperation(a, o, func(_ context.Context, opts *operationOptions) (err error) {
			filter, _, err = opts.choice()
			return err
		})
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs(args)
		return filter, cmd.Execute()
	}
	t.Fatalf("there is no operation %s", op)
	return filter, nil
}

func TestChoice(t *testing.T) {
	risk := "--accept-risk=" + riskDuplicate
	everything := []outbox.State{"sent", "failed", "expired", "queued"}
	for _, tt := range []struct {
		op    store.Operation
		args  string
		want  []outbox.State
		error string
	}{
		{op: store.OpRequeue, args: "", error: "needs ids, a filter, or --all"},
		{op: store.OpRequeue, args: "--limit 5", error: "needs ids, a filter, or --all"},
		{op: store.OpRequeue, args: "--all"},
		{op: store.OpRequeue, args: "--all " + risk}, // all states that can be requeued without sending a second copy
		{op: store.OpRequeue, args: "abcd"},
		{op: store.OpRequeue, args: "-"},
		{op: store.OpRequeue, args: "abcd " + risk, want: everything},
		{op: store.OpRequeue, args: "--id abcd " + risk, want: everything},
		{op: store.OpRequeue, args: "abcd --state failed " + risk, want: []outbox.State{"failed"}},
		{op: store.OpRequeue, args: "--state sent", error: "second copy"},
		{op: store.OpRequeue, args: "--state failed,sent", error: "second copy"},
		{op: store.OpRequeue, args: "--state sent " + risk, want: []outbox.State{"sent"}},
		{op: store.OpRequeue, args: "--to @x.example " + risk},
		{op: store.OpRequeue, args: "abcd --accept-risk=fire", error: `"fire" is not a risk`},
		{op: store.OpHold, args: "", error: "needs ids, a filter, or --all"},
		{op: store.OpRelease, args: "--limit 5", error: "needs ids, a filter, or --all"},
		{op: store.OpResolve, args: "--all", error: "either --sent or --resend"},
		{op: store.OpResolve, args: "abcd --sent --resend", error: "either --sent or --resend"},
		{op: store.OpResolve, args: "--sent", error: "needs ids, a filter, or --all"},
		{op: store.OpResolve, args: "abcd --resend"},
		{op: store.OpHold, args: "abcd --sent", error: "unknown flag"},
		{op: store.OpPurge, args: "--state sent", want: []outbox.State{"sent"}},
		{op: store.OpCancel, args: "--all"},
		{op: store.OpCancel, args: "--all --accept-risk=x", error: "unknown flag"},
	} {
		t.Run(string(tt.op)+" "+tt.args, func(t *testing.T) {
			f, err := choose(t, tt.op, strings.Fields(tt.args)...)
			if tt.error != "" {
				if err == nil || !strings.Contains(err.Error(), tt.error) {
					t.Fatalf("%v, want %q", err, tt.error)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(f.States, tt.want) {
				t.Errorf("states %v, %v; want %v", f.States, err, tt.want)
			}
		})
	}
}

// Every command has the texts that its help needs, and every flag has a description.
func TestHelpIsComplete(t *testing.T) {
	a, out, _ := testApp("")
	root := newRoot(a)
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		if cmd.Short == "" {
			t.Errorf("%s has no short help", cmd.CommandPath())
		}
		if cmd.Runnable() && cmd.Example == "" {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		for line := range strings.SplitSeq(cmd.Long+"\n"+cmd.Example, "\n") {
			if len(line) > 120 {
				t.Errorf("%s: the help has a line of %d characters: %s", cmd.CommandPath(), len(line), line)
			}
		}
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit(root)
	if code := a.run(t.Context(), []string{"help"}); code != exit.OK {
		t.Fatalf("help exits with %d", code)
	}
	for _, cmd := range root.Commands() {
		if !strings.Contains(out.String(), "  "+cmd.Name()+" ") {
			t.Errorf("the help does not list %s:\n%s", cmd.Name(), out)
		}
	}
}

func TestRunExplainsErrors(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name string
		ctx  context.Context
		args []string
		code int
		want string
	}{
		{
			"usage", t.Context(), []string{"list", "--nope"}, exit.Usage,
			"outboxctl: error: unknown flag: --nope\nhint: `outboxctl list --help` shows how it is used\n",
		},
		{
			"no database", t.Context(), []string{"list"}, exit.Usage,
			"outboxctl: error: no database was given\nhint: set OUTBOX_DB or give --db: ",
		},
		{
			"interrupted", cancelled, []string{"list", "--db", "postgres://127.0.0.1:1/x"}, exit.Interrupted,
			"outboxctl: error: interrupted\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, out, stderr := testApp("")
			if code := a.run(tt.ctx, tt.args); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if !strings.HasPrefix(stderr.String(), tt.want) || out.Len() > 0 {
				t.Errorf("stderr %q, stdout %q; want %q and nothing", stderr, out, tt.want)
			}
		})
	}
}

func TestErrorsCannotReachTheTerminal(t *testing.T) {
	a, _, stderr := testApp("")
	a.complain("reply: \x1b[2Jgone\nsecond", "h\x07int")
	if got := stderr.String(); got != "outboxctl: error: reply: �[2Jgone; second\nhint: h�int\n" {
		t.Errorf("%q", got)
	}
}

func TestCatOnATerminalIsHarmless(t *testing.T) {
	in := "Subject: a\r\n\r\n\x1b[31mred\x07 \u202e\r\nlast"
	if got := string(harmless([]byte(in))); got != "Subject: a\n\n�[31mred� �\nlast\n" {
		t.Errorf("%q", got)
	}
}

func TestFirst(t *testing.T) {
	source := func(n int, err error) func(func(store.Delivery, error) bool) {
		return func(yield func(store.Delivery, error) bool) {
			for i := range n {
				if !yield(store.Delivery{Seq: i}, nil) {
					return
				}
			}
			if err != nil {
				yield(store.Delivery{}, err)
			}
		}
	}
	for _, tt := range []struct {
		there, limit, want int
		more               bool
	}{{0, 3, 0, false}, {3, 3, 3, false}, {4, 3, 3, true}} {
		var more bool
		n := 0
		for _, err := range first(tt.limit, source(tt.there, nil), &more) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != tt.want || more != tt.more {
			t.Errorf("%d of %d: %d, %t; want %d, %t", tt.limit, tt.there, n, more, tt.want, tt.more)
		}
	}
	var more bool
	var last error
	for _, err := range first(3, source(3, io.ErrUnexpectedEOF), &more) {
		last = err
	}
	if !errors.Is(last, io.ErrUnexpectedEOF) || more {
		t.Errorf("an error after the last item: %v, %t", last, more)
	}
}
