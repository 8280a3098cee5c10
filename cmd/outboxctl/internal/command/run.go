package command

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
)

type runOptions struct {
	*app
	dispatch dispatchFlags
	poll     time.Duration
}

func newRun(a *app, runF func(context.Context, *runOptions) error) *cobra.Command {
	opts := &runOptions{app: a}
	if runF == nil {
		runF = runRun
	}
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Deliver until stopped",
		Long: `Deliver until stopped. Any number of dispatchers can run on one PostgreSQL, on any number of hosts. On SQLite they must
run on one host.

The first interrupt or SIGTERM stops it: it begins nothing new, gives running transfers --grace to finish, and exits
with 0. A second one ends it at once. No message is lost by that.`,
		Example: `  outboxctl run --relay smtp://app@smtp.example.com:587 --password-file /run/secrets/smtp
  outboxctl run --relay 'smtp://app@smtp.example.com:587?conns=2&rate=14' --concurrency 2`,
		Args: needs(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	opts.dispatch.add(cmd)
	cmd.Flags().DurationVar(&opts.poll, "poll", 0, "`TIME` between two looks at the database (default 1s)")
	return cmd
}

func runRun(ctx context.Context, opts *runOptions) (err error) {
	log := opts.logger(slog.LevelInfo)
	d, err := opts.dispatch.open(ctx, opts.app, log, opts.poll)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	stopping := context.AfterFunc(ctx, func() { log.Info("stopping; interrupt again to stop at once") })
	defer stopping()
	log.Info("delivering", "relay", d.relay.Client.String())
	if err := d.Run(ctx); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}
