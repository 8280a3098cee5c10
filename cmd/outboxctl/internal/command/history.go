package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
	"github.com/outboxmail/outbox/store"
)

// historyLength is the default of --limit, in actions.
const historyLength = 30

type historyOptions struct {
	*app
	output     output.Flags
	limit      int
	exitStatus bool
	name       string
}

// actionJSON is an entry of `outboxctl history`. Filter is that of the whole action; ID and Seq name the delivery in the history
// of one message.
type actionJSON struct {
	At      time.Time       `json:"at"`
	Actor   string          `json:"actor"`
	Verb    string          `json:"verb"`
	Reason  string          `json:"reason,omitempty"`
	Changed int64           `json:"changed,omitempty"`
	Filter  json.RawMessage `json:"filter,omitempty"`
	ID      outbox.ID       `json:"id,omitempty"`
	Seq     int             `json:"seq,omitempty"`
}

func newHistory(a *app, runF func(context.Context, *historyOptions) error) *cobra.Command {
	opts := &historyOptions{app: a}
	if runF == nil {
		runF = historyRun
	}
	cmd := &cobra.Command{
		Use:   "history [ID]",
		Short: "Show who changed what, and why",
		Long: `Show what operators did, the newest first: requeue, hold, release, cancel, resolve, purge, pause, resume, suppress.
With an id it shows what they did to that message, the oldest first.`,
		Example: `  outboxctl history
  outboxctl history 3e4f5a6b
  outboxctl history --limit 200 -o json`,
		Args: needs(0, 1, "the id of a message"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if opts.limit < 1 {
				return exit.Usagef("", "--limit: %d is not a positive number", opts.limit)
			}
			if len(args) > 0 {
				opts.name = args[0]
			}
			return runF(cmd.Context(), opts)
		},
	}
	cmd.Flags().IntVar(&opts.limit, "limit", historyLength, "at most `N` actions")
	cmd.Flags().BoolVar(&opts.exitStatus, "exit-status", false, "exit with 4 if nothing was done")
	opts.output.Add(cmd, actionJSON{}, output.Table, output.JSON, output.NDJSON, output.TSV)
	return cmd
}

func historyRun(ctx context.Context, opts *historyOptions) (err error) {
	printer, err := opts.output.Printer(opts.io)
	if err != nil {
		return err
	}
	db, err := opts.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	entries, err := opts.entries(ctx, db.Store)
	if err != nil {
		return err
	}
	n, err := actionList(opts.app).Print(printer, func(yield func(actionJSON, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	})
	switch {
	case err != nil:
		return err
	case n == 0 && opts.exitStatus:
		return exit.Silent(exit.NoMatch)
	case n == 0 && printer.Human():
		opts.notef("no operator changed anything")
	}
	return nil
}

// entries reads the newest actions, or all that were done to one message.
func (opts *historyOptions) entries(ctx context.Context, st *store.Store) ([]actionJSON, error) {
	if opts.name == "" {
		actions, err := st.Actions(ctx, opts.limit)
		list := make([]actionJSON, len(actions))
		for i, a := range actions {
			list[i] = actionJSON{At: a.At, Actor: a.Actor, Verb: a.Verb, Reason: a.Reason, Changed: a.Changed, Filter: a.Filter}
		}
		return list, err
	}
	id, err := st.Find(ctx, messageOf(opts.name))
	if err != nil {
		return nil, err
	}
	m, err := st.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	var list []actionJSON
	for _, c := range m.Changes[:min(len(m.Changes), opts.limit)] {
		list = append(list, actionJSON{At: c.At, Actor: c.Actor, Verb: c.Verb, Reason: c.Reason, ID: m.ID, Seq: c.Seq})
	}
	return list, nil
}

func actionList(a *app) output.List[actionJSON] {
	return output.List[actionJSON]{
		Name: "actions",
		Columns: []output.Column{
			{Title: "WHEN"}, {Title: "VERB"}, {Title: "CHANGED", Right: true}, {Title: "WHAT", Shrink: true},
			{Title: "BY", Shrink: true}, {Title: "REASON", Shrink: true},
		},
		Names: []string{"at", "verb", "changed", "what", "actor", "reason"},
		JSON:  func(e actionJSON) any { return e },
		Cells: func(e actionJSON) []output.Cell {
			changed, what := output.Int(e.Changed), output.Text(subjectOf(e.Filter))
			if e.ID != "" {
				changed, what = output.Int(1), idCell(e.ID, e.Seq)
			}
			return []output.Cell{output.Time(e.At, a.now()), output.Text(e.Verb), changed, what, output.Text(e.Actor), output.Text(e.Reason)}
		},
	}
}

// subjectOf says in words what an action chose.
func subjectOf(filter json.RawMessage) string {
	var fields map[string]any
	if json.Unmarshal(filter, &fields) != nil {
		return ""
	}
	var words []string
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		switch value := fields[name].(type) {
		case []any:
			words = append(words, name+" "+someOf(value))
		default:
			words = append(words, fmt.Sprintf("%s %v", name, value))
		}
	}
	if len(words) == 0 {
		return "all"
	}
	return strings.Join(words, ", ")
}

// someOf joins a few values and counts the others.
func someOf(values []any) string {
	const most = 3
	var words []string
	for _, v := range values[:min(len(values), most)] {
		if d, ok := v.(map[string]any); ok { // a delivery
			v = fmt.Sprintf("%v/%v", d["id"], d["seq"])
		}
		words = append(words, fmt.Sprint(v))
	}
	if more := len(values) - len(words); more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, " ")
}
