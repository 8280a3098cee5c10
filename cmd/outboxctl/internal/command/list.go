package command

import (
	"context"
	"errors"
	"iter"
	"strings"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/selection"
	"github.com/outboxmail/outbox/store"
)

// screenful is the default of --limit for a table on a terminal, in deliveries.
const screenful = 30

type listOptions struct {
	*app
	filter     selection.Flags
	output     output.Flags
	exitStatus bool
	countBy    string
	limited    bool // --limit was given
	args       []string
}

func newList(a *app, runF func(context.Context, *listOptions) error) *cobra.Command {
	opts := &listOptions{app: a}
	if runF == nil {
		runF = listRun
	}
	cmd := &cobra.Command{
		Use:     "list [ID... | -]",
		Aliases: []string{"ls"},
		Short:   "List deliveries",
		Long:    "List deliveries, the newest message first. A message has one delivery for each recipient. Each flag narrows the list.",
		Example: `  outboxctl list --state failed --newer-than 24h
  outboxctl list --to @example.com --class throttled
  outboxctl list --state failed --since 1h --count-by reply
  outboxctl list --state uncertain --json id,recipient,reply
  outboxctl list -o id --state failed | outboxctl requeue -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.args, opts.limited = args, cmd.Flags().Changed("limit")
			return runF(cmd.Context(), opts)
		},
	}
	opts.filter.Add(cmd)
	opts.output.Add(cmd, deliveryJSON{}, output.Table, output.JSON, output.NDJSON, output.TSV, output.ID)
	cmd.Flags().StringVar(&opts.countBy, "count-by", "",
		"count them `BY` state, route, relay, class, code, reply, domain, tag or metadata.NAME")
	cmd.Flags().BoolVar(&opts.exitStatus, "exit-status", false, "exit with 4 when nothing matches")
	return cmd
}

func listRun(ctx context.Context, opts *listOptions) (err error) {
	printer, err := opts.output.Printer(opts.io)
	if err != nil {
		return err
	}
	filter, err := opts.filter.Filter(opts.now())
	if err != nil {
		return err
	}
	if opts.countBy != "" && !store.Grouping(opts.countBy).Valid() {
		return exit.Usagef("count by state, route, relay, class, code, reply, domain, tag or metadata.NAME",
			"--count-by: deliveries cannot be grouped by %q", opts.countBy)
	}
	names, err := opts.filter.Names(opts.args)
	if err != nil {
		return err
	}
	cut := printer.Human() && !opts.limited && opts.countBy == ""
	if cut {
		filter.Limit = screenful + 1
	}
	db, err := opts.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	chosen, err := names.Resolve(ctx, filter, opts.io.In, db.Store)
	if err != nil {
		return err
	}
	if opts.countBy != "" {
		return opts.count(ctx, printer, db.Store, chosen)
	}
	reveal, err := opts.revealer()
	if err != nil {
		return err
	}
	more := false
	items := revealed(each(ctx, db.Store, chosen), reveal)
	if cut {
		items = first(screenful, items, &more)
	}
	n, err := deliveryList(opts.app).Print(printer, items)
	switch {
	case err != nil:
		return err
	case n == 0 && opts.exitStatus:
		return exit.Silent(exit.NoMatch)
	case n == 0 && printer.Human():
		opts.notef("nothing matches")
	case more:
		opts.notef("these are the newest %d; --limit N shows more, --count-by reply counts them", screenful)
	}
	return nil
}

// groupJSON is a number of deliveries with a common value.
type groupJSON struct {
	Value      string `json:"value"`
	Deliveries int64  `json:"deliveries"`
}

// count prints how many deliveries have each value, the most frequent first.
func (opts *listOptions) count(ctx context.Context, printer *output.Printer, st *store.Store, chosen *selection.Selection) error {
	if printer.Format() == output.ID || len(opts.output.Fields()) > 0 {
		return exit.Usagef("", "--count-by goes neither with --output id nor with --json")
	}
	f, ok := chosen.Whole()
	if !ok {
		return nil
	}
	groups, err := st.CountBy(ctx, f, store.Grouping(opts.countBy), f.Limit)
	if err != nil {
		return err
	}
	list := output.List[store.Group]{
		Name:    "groups",
		Columns: []output.Column{{Title: "COUNT", Right: true}, {Title: strings.ToUpper(opts.countBy), Shrink: true}},
		Names:   []string{"count", "value"},
		JSON:    func(g store.Group) any { return groupJSON(g) },
		Cells: func(g store.Group) []output.Cell {
			value := output.Text(g.Value)
			if g.Value == "" {
				value.Short = "(none)"
			}
			return []output.Cell{output.Int(g.Deliveries), value}
		},
	}
	n, err := list.Print(printer, func(yield func(store.Group, error) bool) {
		for _, g := range groups {
			if !yield(g, nil) {
				return
			}
		}
	})
	if err == nil && n == 0 && opts.exitStatus {
		return exit.Silent(exit.NoMatch)
	}
	return err
}

// each streams the selected deliveries.
func each(ctx context.Context, st *store.Store, s *selection.Selection) iter.Seq2[store.Delivery, error] {
	return func(yield func(store.Delivery, error) bool) {
		f, ok := s.Whole()
		if !ok {
			return
		}
		for d, err := range st.All(ctx, f) {
			if !yield(d, err) {
				return
			}
		}
	}
}

// revealed decrypts the subjects whose keys are known.
func revealed(items iter.Seq2[store.Delivery, error], reveal func(*store.Delivery)) iter.Seq2[store.Delivery, error] {
	return func(yield func(store.Delivery, error) bool) {
		for d, err := range items {
			if err == nil {
				reveal(&d)
			}
			if !yield(d, err) {
				return
			}
		}
	}
}

// first yields at most n items and sets more to true if the sequence has others.
func first(n int, items iter.Seq2[store.Delivery, error], more *bool) iter.Seq2[store.Delivery, error] {
	return func(yield func(store.Delivery, error) bool) {
		for d, err := range items {
			if n == 0 && err == nil {
				*more = true
				return
			}
			if !yield(d, err) {
				return
			}
			n--
		}
	}
}

// deliveryList returns the columns and the JSON of a list of deliveries.
func deliveryList(a *app) output.List[store.Delivery] {
	return output.List[store.Delivery]{
		Name: "deliveries",
		Columns: []output.Column{
			{Title: "ID"}, {Title: "STATE"},
			{Title: "TO", Shrink: true, Wanted: 26, Middle: true},
			{Title: "TRIES", Right: true, Drop: 3},
			{Title: "WHEN"},
			{Title: "ROUTE", Drop: 1, Shrink: true},
			{Title: "SUBJECT", Drop: 2, Shrink: true, Wanted: 16},
			{Title: "LAST REPLY", Shrink: true, Wanted: 20},
		},
		Names: []string{"id", "state", "to", "tries", "when", "route", "subject", "reply"},
		JSON:  func(d store.Delivery) any { return viewDelivery(d) },
		ID:    func(d store.Delivery) string { return store.DeliveryID{ID: d.ID, Seq: d.Seq}.String() },
		Cells: func(d store.Delivery) []output.Cell {
			return []output.Cell{
				idCell(d.ID, d.Seq), stateCell(d), output.Text(d.Recipient), output.Int(d.Attempts), whenCell(d, a.now()),
				output.Text(d.Route), subjectCell(d.KeyID, d.Subject), replyCell(d),
			}
		},
	}
}
