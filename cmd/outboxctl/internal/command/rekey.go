package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
	"github.com/outboxmail/outbox/keyring"
	"github.com/outboxmail/outbox/store"
)

type rekeyOptions struct {
	*app
	output output.Flags
	plain  bool
	dryRun bool
}

// rekeyJSON is the JSON of `outboxctl rekey`. It counts messages. Matched counts those with another key than the current one.
// Keys has their numbers by key; the empty name stands for messages that are not encrypted. Left counts those that still have
// another key at the end.
type rekeyJSON struct {
	Key     string           `json:"key"`
	DryRun  bool             `json:"dry_run"`
	Matched int64            `json:"matched"`
	Keys    map[string]int64 `json:"keys"`
	Changed int64            `json:"changed"`
	Missed  int64            `json:"missed"`
	Left    int64            `json:"left"`
	Closed  map[string]int64 `json:"closed"`
}

func newRekey(a *app, runF func(context.Context, *rekeyOptions) error) *cobra.Command {
	opts := &rekeyOptions{app: a}
	if runF == nil {
		runF = rekeyRun
	}
	cmd := &cobra.Command{
		Use:   "rekey",
		Short: "Encrypt stored messages with the current key",
		Long: `Encrypt stored messages again, from an older key to the current one: the first in the key file. Dispatchers and
applications can run meanwhile. They need both keys.

You can interrupt the command at any time and run it again for the rest. It exits with 5 if messages are left, such as
those that were committed meanwhile. Remove the older key only when every application encrypts with the new one and
--dry-run then finds none. A message whose key is not in the file stays as it is and is counted.`,
		Example: `  outboxctl rekey --key-file /etc/outbox/keys --dry-run
  outboxctl rekey --key-file /etc/outbox/keys
  outboxctl rekey --key-file /etc/outbox/keys --plain`,
		Args: needs(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	cmd.Flags().BoolVar(&opts.plain, "plain", false, "also encrypt bodies that are stored in clear")
	cmd.Flags().BoolVar(&opts.dryRun, "dry-run", false, "count the messages under other keys, and change nothing")
	opts.output.Add(cmd, rekeyJSON{}, output.Table, output.JSON, output.NDJSON, output.TSV)
	return cmd
}

func rekeyRun(ctx context.Context, opts *rekeyOptions) (err error) {
	printer, err := opts.output.Printer(opts.io)
	if err != nil {
		return err
	}
	keys, err := opts.keyRing()
	switch {
	case err != nil:
		return err
	case keys == nil:
		return exit.Usagef(hintKeys, "no keys were given")
	}
	db, err := opts.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	result := rekeyJSON{Key: keys.Current(), DryRun: opts.dryRun, Closed: map[string]int64{}}
	if result.Keys, err = db.Store.Rekeyable(ctx, keys, opts.plain); err != nil {
		return err
	}
	for _, n := range result.Keys {
		result.Matched += n
	}
	if opts.dryRun {
		return opts.report(printer, result)
	}
	bar := newProgress(opts.io, result.Matched)
	report, workErr := db.Store.Rekey(ctx, keys, store.RekeyOptions{Plain: opts.plain, Progress: bar.set})
	bar.finish()
	result.Changed, result.Missed, result.Closed = report.Changed, report.Missed, report.Closed
	var countErr error
	if workErr == nil {
		result.Left, countErr = left(ctx, db.Store, keys, opts.plain)
	} else {
		result.Left = result.Matched - min(result.Changed, result.Matched)
	}
	if err := opts.report(printer, result); err != nil {
		return err
	}
	return errors.Join(rekeyError(report, result.Left, workErr), countErr)
}

// left counts the messages that still have another key.
func left(ctx context.Context, st *store.Store, keys *keyring.Ring, plain bool) (n int64, err error) {
	counts, err := st.Rekeyable(ctx, keys, plain)
	for _, m := range counts {
		n += m
	}
	return n, err
}

// rekeyError returns an error if messages are left.
func rekeyError(report store.RekeyReport, left int64, workErr error) error {
	code := exit.Failed
	if report.Changed > 0 {
		code = exit.Partial
	}
	var closed int64
	for _, n := range report.Closed {
		closed += n
	}
	switch {
	case workErr != nil && report.Changed > 0:
		return &exit.Error{Err: workErr, Hint: "the same command does the rest", Code: code}
	case workErr != nil:
		return workErr
	case closed > 0:
		return &exit.Error{
			Err:  fmt.Errorf("%s not be opened, the first: %w", count(closed, "message could", "messages could"), report.First),
			Hint: "keep the older keys until nothing is encrypted with them", Code: code,
		}
	case left > 0:
		return &exit.Error{
			Err:  fmt.Errorf("%s left with another key", count(left, "message is", "messages are")),
			Hint: "run it again, until --dry-run finds none", Code: exit.Partial,
		}
	default:
		return nil
	}
}

func (opts *rekeyOptions) report(printer *output.Printer, result rekeyJSON) error {
	return printer.Object(result, "", func(r *output.Rows) {
		switch {
		case printer.Format() == output.TSV:
			r.Add(output.Text(result.Key), output.Int(result.Matched), output.Int(result.Changed))
			return
		case opts.dryRun:
			r.Add(output.Text(fmt.Sprintf("%s be encrypted with key %s.", count(result.Matched, "message would", "messages would"), result.Key)))
		case result.Matched == 0:
			r.Add(output.Text("All encrypted messages have key " + result.Key + "."))
			return
		default:
			r.Add(output.Text(fmt.Sprintf("%s encrypted with key %s.", count(result.Changed, "message was", "messages were"), result.Key)))
		}
		if result.Matched == 0 {
			return
		}
		r.Section("", output.Column{Title: "WAS WITH KEY"}, output.Column{Title: "MESSAGES", Right: true},
			output.Column{Title: "NOT OPENED", Right: true})
		for _, key := range slices.Sorted(maps.Keys(result.Keys)) {
			name := key
			if name == "" {
				name = "in clear"
			}
			r.Add(output.Text(name), output.Int(result.Keys[key]), output.Int(result.Closed[key]))
		}
	})
}
