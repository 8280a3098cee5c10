package command

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
	"github.com/outboxmail/outbox/store"
)

type pauseOptions struct {
	*app
	output     output.Flags
	resume     bool
	reason     string
	exitStatus bool
	route      string
}

// pausedJSON is the JSON of pause and resume. Changed is false if the route to resume was not paused.
type pausedJSON struct {
	Operation string `json:"operation"`
	Route     string `json:"route"`
	Paused    bool   `json:"paused"`
	Changed   bool   `json:"changed"`
}

func newPause(a *app, runF func(context.Context, *pauseOptions) error) *cobra.Command {
	opts := &pauseOptions{app: a}
	cmd := opts.command(runF)
	cmd.Use = "pause ROUTE"
	cmd.Short = "Pause a route"
	cmd.Long = `Pause a route: dispatchers leave its deliveries alone until you resume it. Deliveries that are being sent go on, and the
application can still enqueue. If the route is paused already, its reason changes.`
	cmd.Example = `  outboxctl pause newsletter --reason 'wrong template'
  outboxctl pause default`
	cmd.Flags().StringVar(&opts.reason, "reason", "", "`WHY` it is paused, shown by status and recorded")
	return cmd
}

func newResume(a *app, runF func(context.Context, *pauseOptions) error) *cobra.Command {
	opts := &pauseOptions{app: a, resume: true}
	cmd := opts.command(runF)
	cmd.Use = "resume ROUTE"
	cmd.Short = "Resume a paused route"
	cmd.Long = "Resume a paused route. A running dispatcher goes on with it at its next poll."
	cmd.Example = "  outboxctl resume newsletter"
	cmd.Flags().BoolVar(&opts.exitStatus, "exit-status", false, "exit with 4 if the route was not paused")
	cmd.Flags().StringVar(&opts.reason, "reason", "", "`WHY` it goes on, recorded in the history")
	return cmd
}

// command builds the parts that both commands share.
func (opts *pauseOptions) command(runF func(context.Context, *pauseOptions) error) *cobra.Command {
	if runF == nil {
		runF = pauseRun
	}
	cmd := &cobra.Command{
		Args: needs(1, 1, "the name of a route"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if opts.route = args[0]; opts.route == "" {
				return exit.Usagef("", "the name of a route is missing")
			}
			return runF(cmd.Context(), opts)
		},
	}
	opts.output.Add(cmd, pausedJSON{}, output.Table, output.JSON, output.NDJSON, output.TSV)
	return cmd
}

func pauseRun(ctx context.Context, opts *pauseOptions) (err error) {
	printer, err := opts.output.Printer(opts.io)
	if err != nil {
		return err
	}
	db, err := opts.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	ctx = store.WithReason(ctx, opts.reason)
	result := pausedJSON{Operation: "resume", Route: opts.route}
	sentence := "Route " + opts.route + " was resumed."
	if opts.resume {
		if result.Changed, err = db.Store.Resume(ctx, opts.route); err != nil {
			return err
		}
		if !result.Changed {
			sentence = "Route " + opts.route + " was not paused."
		}
	} else {
		result.Operation, result.Paused = "pause", true
		sentence = "Route " + opts.route + " is paused."
		result.Changed = true
		if err := db.Store.Pause(ctx, opts.route, opts.reason); err != nil {
			return err
		}
	}
	err = printer.Object(result, "", func(r *output.Rows) {
		if printer.Format() == output.TSV {
			changed := "0"
			if result.Changed {
				changed = "1"
			}
			r.Head("operation", "route", "changed")
			r.Add(output.Text(result.Operation), output.Text(result.Route), output.Text(changed))
			return
		}
		r.Add(output.Text(sentence))
	})
	if err == nil && opts.exitStatus && !result.Changed {
		return exit.Silent(exit.NoMatch)
	}
	return err
}
