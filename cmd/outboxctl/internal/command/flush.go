package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
	"github.com/outboxmail/outbox/dispatcher"
)

type flushOptions struct {
	*app
	output   output.Flags
	dispatch dispatchFlags
}

// flushJSON is the JSON of `outboxctl flush`. It counts deliveries.
type flushJSON struct {
	Sent      int `json:"sent"`
	Deferred  int `json:"deferred"`
	Failed    int `json:"failed"`
	Uncertain int `json:"uncertain"`
	Held      int `json:"held"`
	Expired   int `json:"expired"`
	Lost      int `json:"lost"`
}

func newFlush(a *app, runF func(context.Context, *flushOptions) error) *cobra.Command {
	opts := &flushOptions{app: a}
	if runF == nil {
		runF = flushRun
	}
	cmd := &cobra.Command{
		Use:   "flush",
		Short: "Deliver the messages that are due, then exit",
		Long: `Deliver the messages that are due, then exit. Deferred messages stay for later. The exit code is 5 if only some of the
due deliveries were sent, and 1 if none was.`,
		Example: `  outboxctl flush --relay smtp://app@smtp.example.com:587 --password-file /run/secrets/smtp
  OUTBOX_RELAY=smtps://app@smtp.example.com OUTBOX_RELAY_PASSWORD=… outboxctl flush`,
		Args: needs(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	opts.dispatch.add(cmd)
	opts.output.Add(cmd, flushJSON{}, output.Table, output.JSON, output.NDJSON, output.TSV)
	return cmd
}

func flushRun(ctx context.Context, opts *flushOptions) (err error) {
	printer, err := opts.output.Printer(opts.io)
	if err != nil {
		return err
	}
	// Nothing is logged: the database has the outcome of each delivery, and the report has the sums.
	d, err := opts.dispatch.open(ctx, opts.app, opts.logger(slog.LevelError+1), 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	report, flushErr := d.Flush(ctx)
	if err := printFlush(printer, report); err != nil {
		return err
	}
	if flushErr != nil {
		if report.Sent > 0 && ctx.Err() == nil {
			return &exit.Error{Err: flushErr, Code: exit.Partial}
		}
		return flushErr
	}
	unsent := report.Deferred + report.Failed + report.Uncertain + report.Held + report.Expired + report.Lost
	if unsent == 0 {
		return nil
	}
	code := exit.Failed
	if report.Sent > 0 {
		code = exit.Partial
	}
	return &exit.Error{
		Err:  fmt.Errorf("%s not sent", count(int64(unsent), "delivery was", "deliveries were")),
		Hint: d.faults.hint(d.relay.Name), Code: code,
	}
}

func printFlush(printer *output.Printer, report dispatcher.Report) error {
	v := flushJSON{
		Sent: report.Sent, Deferred: report.Deferred, Failed: report.Failed, Uncertain: report.Uncertain,
		Held: report.Held, Expired: report.Expired, Lost: report.Lost,
	}
	return printer.Object(v, "", func(r *output.Rows) {
		if printer.Human() && v == (flushJSON{}) {
			r.Add(output.Text("Nothing was due."))
			return
		}
		for _, line := range []struct {
			name string
			n    int
		}{
			{"sent", v.Sent},
			{"deferred", v.Deferred},
			{"failed", v.Failed},
			{"uncertain", v.Uncertain},
			{"held", v.Held},
			{"expired", v.Expired},
			{"lost", v.Lost},
		} {
			if line.n > 0 || line.name == "sent" || printer.Format() == output.TSV {
				r.Pair(line.name, output.Int(line.n))
			}
		}
	})
}

// count returns a number with its noun.
func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return grouped(n) + " " + many
}

// grouped writes a number with commas between groups of three digits.
func grouped(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
