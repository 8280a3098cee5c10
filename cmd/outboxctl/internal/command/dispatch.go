package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/connect"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/smtpx"
)

// dispatchFlags holds the flags of run and flush.
type dispatchFlags struct {
	relay       connect.RelayFlags
	concurrency int
	lease       time.Duration
	grace       time.Duration
	maxAge      time.Duration
}

func (f *dispatchFlags) add(cmd *cobra.Command) {
	f.relay.Add(cmd)
	fl := cmd.Flags()
	fl.IntVar(&f.concurrency, "concurrency", 0, "send `N` messages at once (default 10)")
	fl.DurationVar(&f.lease, "lease", 0, "`TIME` after which another dispatcher takes over from a dead one (default 1m)")
	fl.DurationVar(&f.grace, "grace", 0, "`TIME` that running transfers get after a stop (default 30s)")
	fl.DurationVar(&f.maxAge, "max-age", 0, "`TIME` after which a refused message is given up (default 120h)")
}

// dispatch is a dispatcher with its database and relay.
type dispatch struct {
	*dispatcher.Dispatcher
	db     *connect.Database
	relay  *connect.Relay
	faults *faults
}

// open makes a dispatcher. It sends nothing yet and does not connect to the relay.
func (f *dispatchFlags) open(ctx context.Context, a *app, log *slog.Logger, poll time.Duration) (_ *dispatch, err error) {
	relay, err := f.relay.Open(ctx, a.io.Getenv, a.io.Err)
	if err != nil {
		return nil, err
	}
	d := &dispatch{relay: relay, faults: &faults{Client: relay.Client}}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	cfg := dispatcher.Config{
		Relays:      []dispatcher.Relay{{Name: relay.Name, Sender: d.faults}},
		Concurrency: f.concurrency, Poll: poll, Lease: f.lease, Grace: f.grace, MaxAge: f.maxAge, Logger: log,
	}
	if cfg.Keys, err = a.keyRing(); err != nil {
		return nil, err
	}
	if d.db, err = a.open(ctx); err != nil {
		return nil, err
	}
	cfg.Queue, cfg.Watch = d.db.Store, d.db.Watch
	if d.Dispatcher, err = dispatcher.New(cfg); err != nil {
		return nil, &exit.Error{Err: err, Code: exit.Usage}
	}
	return d, nil
}

// close closes the connections to the relay and the database.
func (d *dispatch) close() error {
	err := d.relay.Client.Close()
	if d.db != nil {
		err = errors.Join(err, d.db.Close())
	}
	return err
}

// faults sends through a client and keeps the first failure with a hint, or else the first failure. It is safe for
// concurrent use.
type faults struct {
	*smtpx.Client

	mu    sync.Mutex
	first *smtpx.Error
}

// Send implements dispatcher.Sender.
func (f *faults) Send(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
	res, err := f.Client.Send(ctx, env, body)
	if failure, ok := errors.AsType[*smtpx.Error](err); ok {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.first == nil || f.first.Hint == "" && failure.Hint != "" {
			f.first = failure
		}
	}
	return res, err
}

// hint describes the failure that was kept and adds its hint.
func (f *faults) hint(relay string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first == nil {
		return "`outboxctl list --state queued,held,failed,uncertain` shows the reasons"
	}
	hint := fmt.Sprintf("relay %s: %v", relay, f.first)
	if f.first.Hint != "" {
		hint += " (" + f.first.Hint + ")"
	}
	return hint
}
