package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
	"github.com/outboxmail/outbox/internal/letter"
	"github.com/outboxmail/outbox/store"
)

// suppressionJSON is the JSON of a suppressed address.
type suppressionJSON struct {
	Address   string    `json:"address"`
	Reason    string    `json:"reason"`
	Source    string    `json:"source"`
	MessageID outbox.ID `json:"message_id,omitempty"`
	CreatedAt time.Time `json:"created_at"`
}

// suppressJSON is the JSON of `outboxctl suppress add`, `remove` and `import`. It counts addresses. Bad lists the lines of an
// import that cannot be read.
type suppressJSON struct {
	Operation string        `json:"operation"`
	DryRun    bool          `json:"dry_run"`
	Matched   int64         `json:"matched"`
	Changed   int64         `json:"changed"`
	Bad       []badLineJSON `json:"bad"`
}

type badLineJSON struct {
	Line  int    `json:"line"`
	Last  int    `json:"last"`
	Error string `json:"error"`
}

type suppressOptions struct {
	*app
	output     output.Flags
	reason     string
	source     string
	exitStatus bool
	dryRun     bool
	skipBad    bool
	args       []string
}

// newSuppress builds the command and its verbs.
func newSuppress(a *app, runF func(context.Context, *suppressOptions) error) *cobra.Command {
	group := &cobra.Command{
		Use:   "suppress",
		Short: "Keep the list of addresses that get no mail",
		Long: `Keep the suppression list: the addresses that get no mail. A delivery to one of them becomes "suppressed" when it is
due. You can requeue it after you remove the address from the list.`,
		Example: `  outboxctl suppress add ann@example.net --reason 'asked by phone'
  outboxctl suppress import bounces.csv --source bounce --dry-run
  outboxctl suppress list -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return exit.Usagef("", "a verb is missing: add, remove, list or import")
			}
			return exit.Usagef("the verbs are add, remove, list and import", "there is no verb %q", args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	verb := func(
		use, short, long, example string, args cobra.PositionalArgs, run func(context.Context, *suppressOptions) error,
	) (*cobra.Command, *suppressOptions) {
		opts := &suppressOptions{app: a}
		if runF != nil {
			run = runF
		}
		cmd := &cobra.Command{
			Use: use, Short: short, Long: long, Example: example, Args: args,
			RunE: func(cmd *cobra.Command, args []string) error {
				opts.args = args
				return run(cmd.Context(), opts)
			},
		}
		group.AddCommand(cmd)
		return cmd, opts
	}

	add, opts := verb("add ADDRESS...", "Put addresses on the list",
		"Put addresses on the list. An address that is on it already gets the new reason.",
		"  outboxctl suppress add ann@example.net bob@example.net --reason 'asked by phone'", needs(1, -1, "an address"), suppressAdd)
	add.Flags().StringVar(&opts.reason, "reason", "", "`TEXT` of the reason, recorded with every suppressed delivery")
	add.Flags().StringVar(&opts.source, "source", "", "`NAME` of the source of the entry (default operator)")
	opts.output.Add(add, suppressJSON{}, output.Table, output.JSON, output.NDJSON, output.TSV)

	remove, opts := verb("remove ADDRESS...", "Take addresses off the list",
		"Take addresses off the list. Suppressed deliveries stay suppressed until you requeue them.",
		"  outboxctl suppress remove ann@example.net\n  outboxctl requeue --state suppressed --to ann@example.net --yes",
		needs(1, -1, "an address"), suppressRemove)
	remove.Flags().StringVar(&opts.reason, "reason", "", "`WHY` they get mail again, recorded in the history")
	remove.Flags().BoolVar(&opts.exitStatus, "exit-status", false, "exit with 4 if none of them was on the list")
	opts.output.Add(remove, suppressJSON{}, output.Table, output.JSON, output.NDJSON, output.TSV)

	list, opts := verb("list [ADDRESS...]", "Show the list", "Show the list, sorted by address, or only the entries of some addresses.",
		"  outboxctl suppress list\n  outboxctl suppress list ann@example.net --exit-status", needs(0, -1, ""), suppressList)
	list.Flags().BoolVar(&opts.exitStatus, "exit-status", false, "exit with 4 if no address is found")
	opts.output.Add(list, suppressionJSON{}, output.Table, output.JSON, output.NDJSON, output.TSV)

	imported, opts := verb("import FILE", "Put the addresses of a CSV file on the list",
		`Put the addresses of a CSV file on the list. "-" reads standard input. The columns are address, reason and source; the
last two are optional. If the first line names columns, they are found by name, as in the exports of providers, and
other columns are ignored.

Every line is read before anything is written. Lines that cannot be read are listed with their numbers, and then nothing
is written unless you give --skip-bad. An unclosed quote is refused even then: the following lines are inside it.`,
		"  outboxctl suppress import bounces.csv --source bounce --dry-run\n  outboxctl suppress import - < list.csv",
		needs(1, 1, "a file"), suppressImport)
	imported.Flags().StringVar(&opts.reason, "reason", "", "`TEXT` for lines without a reason")
	imported.Flags().StringVar(&opts.source, "source", "", "`NAME` of the source for lines without one (default import)")
	imported.Flags().BoolVar(&opts.dryRun, "dry-run", false, "check the file, and write nothing")
	imported.Flags().BoolVar(&opts.skipBad, "skip-bad", false, "write the good lines if some lines cannot be read")
	opts.output.Add(imported, suppressJSON{}, output.Table, output.JSON, output.NDJSON, output.TSV)
	return group
}

// addresses checks the arguments and returns the addresses in the form that deliveries use.
func (opts *suppressOptions) addresses() ([]string, error) {
	list := make([]string, len(opts.args))
	for i, arg := range opts.args {
		m, err := letter.ParseMailbox(arg)
		if err != nil {
			return nil, exit.Usagef("", "the address %w", err)
		}
		list[i] = m.Addr
	}
	return list, nil
}

// change opens the database, runs a verb that changes the list, and prints the result.
func (opts *suppressOptions) change(
	ctx context.Context, result suppressJSON, work func(ctx context.Context, st *store.Store) (int64, error),
) (err error) {
	printer, err := opts.output.Printer(opts.io)
	if err != nil {
		return err
	}
	if result.Bad == nil {
		result.Bad = []badLineJSON{}
	}
	var workErr error
	if !result.DryRun {
		db, err := opts.open(ctx)
		if err != nil {
			return err
		}
		result.Changed, workErr = work(store.WithReason(ctx, opts.reason), db.Store)
		if err := db.Close(); err != nil {
			return errors.Join(workErr, err)
		}
	}
	if workErr != nil && result.Changed == 0 {
		return workErr
	}
	err = printer.Object(result, "", func(r *output.Rows) {
		past := map[string]string{"add": "put on the list", "remove": "taken off the list", "import": "put on the list"}[result.Operation]
		switch {
		case printer.Format() == output.TSV:
			r.Head("operation", "matched", "changed")
			r.Add(output.Text(result.Operation), output.Int(result.Matched), output.Int(result.Changed))
		case result.DryRun:
			r.Add(output.Text(fmt.Sprintf("%s be %s.", count(result.Matched, "address would", "addresses would"), past)))
		default:
			r.Add(output.Text(fmt.Sprintf("%s %s.", count(result.Changed, "address was", "addresses were"), past)))
		}
	})
	switch {
	case err != nil:
		return err
	case workErr != nil:
		return &exit.Error{Err: workErr, Hint: "the same command does the rest", Code: exit.Partial}
	case len(result.Bad) > 0 && !result.DryRun:
		return &exit.Error{Err: fmt.Errorf("%s left out", count(linesOf(result.Bad), "line was", "lines were")), Code: exit.Partial}
	case result.Changed == 0 && opts.exitStatus:
		return exit.Silent(exit.NoMatch)
	default:
		return nil
	}
}

func suppressAdd(ctx context.Context, opts *suppressOptions) error {
	addresses, err := opts.addresses()
	if err != nil {
		return err
	}
	entries := make([]store.Suppression, len(addresses))
	for i, a := range addresses {
		entries[i] = store.Suppression{Address: a, Reason: opts.reason, Source: opts.source}
	}
	return opts.change(ctx, suppressJSON{Operation: "add", Matched: int64(len(entries))},
		func(ctx context.Context, st *store.Store) (int64, error) { return st.Suppress(ctx, entries...) })
}

func suppressRemove(ctx context.Context, opts *suppressOptions) error {
	addresses, err := opts.addresses()
	if err != nil {
		return err
	}
	return opts.change(ctx, suppressJSON{Operation: "remove", Matched: int64(len(addresses))},
		func(ctx context.Context, st *store.Store) (int64, error) { return st.Unsuppress(ctx, addresses...) })
}

func suppressList(ctx context.Context, opts *suppressOptions) (err error) {
	printer, err := opts.output.Printer(opts.io)
	if err != nil {
		return err
	}
	addresses, err := opts.addresses()
	if err != nil {
		return err
	}
	db, err := opts.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	items := db.Store.Suppressions(ctx)
	if len(addresses) > 0 {
		items = suppressed(ctx, db.Store, addresses)
	}
	n, err := output.List[store.Suppression]{
		Name:    "suppressions",
		Columns: []output.Column{{Title: "ADDRESS"}, {Title: "SINCE"}, {Title: "SOURCE"}, {Title: "REASON", Shrink: true}},
		JSON: func(s store.Suppression) any {
			return suppressionJSON{Address: s.Address, Reason: s.Reason, Source: s.Source, MessageID: s.MessageID, CreatedAt: s.CreatedAt}
		},
		Cells: func(s store.Suppression) []output.Cell {
			return []output.Cell{output.Text(s.Address), output.Time(s.CreatedAt, opts.now()), output.Text(s.Source), output.Text(s.Reason)}
		},
	}.Print(printer, items)
	switch {
	case err != nil:
		return err
	case n == 0 && opts.exitStatus:
		return exit.Silent(exit.NoMatch)
	case n == 0 && printer.Human():
		opts.notef("nothing is on the list")
	}
	return nil
}

// suppressed yields the suppressions of some addresses.
func suppressed(ctx context.Context, st *store.Store, addresses []string) iter.Seq2[store.Suppression, error] {
	return func(yield func(store.Suppression, error) bool) {
		for _, a := range addresses {
			s, ok, err := st.Suppressed(ctx, a)
			if err != nil || ok {
				if !yield(s, err) {
					return
				}
			}
		}
	}
}

// importChunk is the number of addresses that are written between two steps of the bar.
const importChunk = 2000

func suppressImport(ctx context.Context, opts *suppressOptions) error {
	entries, bad, err := opts.readFile(opts.args[0])
	if err != nil {
		return err
	}
	for _, b := range bad {
		opts.notef("%s", b.Error)
	}
	result := suppressJSON{Operation: "import", DryRun: opts.dryRun, Matched: int64(len(entries)), Bad: bad}
	if refused := opts.refuse(bad); refused != nil && !opts.dryRun {
		if err := opts.reportRefused(result); err != nil {
			return err
		}
		return refused
	}
	err = opts.change(ctx, result, func(ctx context.Context, st *store.Store) (written int64, err error) {
		bar := newProgress(opts.io, int64(len(entries)))
		defer bar.finish()
		for chunk := range slices.Chunk(entries, importChunk) {
			n, err := st.Suppress(ctx, chunk...)
			written += n
			if err != nil {
				return written, err
			}
			bar.set(written)
		}
		return written, nil
	})
	if err == nil && opts.dryRun && len(bad) > 0 {
		return &exit.Error{Err: fmt.Errorf("%s be read", count(linesOf(bad), "line could not", "lines could not"))}
	}
	return err
}

// refuse returns the error of an import with bad lines, or nil if it may go on. --skip-bad leaves out only single lines,
// because an unclosed quote can span lines with valid addresses.
func (opts *suppressOptions) refuse(bad []badLineJSON) error {
	hint := "mend them, or give --skip-bad to leave them out"
	if i := slices.IndexFunc(bad, func(b badLineJSON) bool { return b.Last > b.Line }); i >= 0 {
		hint = fmt.Sprintf("close the quote in line %d; --skip-bad leaves out only single lines", bad[i].Line)
	} else if len(bad) == 0 || opts.skipBad {
		return nil
	}
	return &exit.Error{
		Err: fmt.Errorf("%s be read; nothing was written", count(linesOf(bad), "line could not", "lines could not")), Hint: hint,
	}
}

// linesOf counts the lines that cannot be read.
func linesOf(bad []badLineJSON) (n int64) {
	for _, b := range bad {
		n += int64(b.Last - b.Line + 1)
	}
	return n
}

// reportRefused prints the JSON of an import that wrote nothing. In other formats it prints nothing; the error says enough.
func (opts *suppressOptions) reportRefused(result suppressJSON) error {
	printer, err := opts.output.Printer(opts.io)
	if err != nil || printer.Format() != output.JSON && printer.Format() != output.NDJSON {
		return err
	}
	return printer.Object(result, "", nil)
}

// readFile reads a file, or standard input for "-". It returns the entries and the lines that are not entries.
func (opts *suppressOptions) readFile(path string) (entries []store.Suppression, bad []badLineJSON, err error) {
	in := opts.io.In
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, nil, &exit.Error{Err: err}
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	limited := &io.LimitedReader{R: in, N: largestInput + 1}
	for s, err := range store.ReadSuppressions(limited) {
		line, isLine := errors.AsType[*store.LineError](err)
		switch {
		case isLine:
			bad = append(bad, badLineJSON{Line: line.Line, Last: line.Last, Error: line.Error()})
		case err != nil:
			return nil, nil, err
		default:
			if s.Reason == "" {
				s.Reason = opts.reason
			}
			if s.Source == "" {
				s.Source = opts.source
			}
			if s.Source == "" {
				s.Source = "import"
			}
			entries = append(entries, s)
		}
	}
	if limited.N <= 0 {
		return nil, nil, &exit.Error{Err: fmt.Errorf("%s is larger than %d MiB", path, largestInput>>20)}
	}
	if len(entries)+len(bad) == 0 {
		return nil, nil, &exit.Error{Err: fmt.Errorf("%s holds no addresses", path)}
	}
	return entries, bad, nil
}
