package command

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/selection"
	"github.com/outboxmail/outbox/store"
)

// riskDuplicate names the risk of requeueing sent mail.
const riskDuplicate = "duplicate-mail"

// samples is the number of deliveries that a dry run shows.
const samples = 5

// operation is a verb that changes deliveries.
type operation struct {
	op      store.Operation
	past    string // the participle: "requeued"
	asks    string // what the question says of the consequences
	short   string
	long    string
	example string
	// apply runs the operation. It is nil for resolve, which needs another argument.
	apply func(*store.Store, context.Context, store.Filter, ...store.BulkOption) (int64, error)
}

// operations returns the verbs. Everything that is not in operation is the same for all of them.
func operations() []operation {
	return []operation{
		{
			op: store.OpRequeue, past: "requeued", asks: "They are sent again at once.", apply: (*store.Store).Requeue,
			short: "Send again: failed deliveries, and deferred ones now",
			long: `Make deliveries due now and count their attempts anew. This takes failed, expired and deferred deliveries. It takes
cancelled and suppressed ones only if you name them one by one as ID/SEQ, or with --state.

Sent deliveries are requeued only if you name them, by id or with --state sent, and add
--accept-risk=` + riskDuplicate + `: their recipients get a second copy. The provider Resend is an exception. For 24 hours
it knows the idempotency key of the first copy: it accepts the second one and drops it. Here it is recorded as sent.`,
			example: `  outboxctl requeue 3e4f5a6b
  outboxctl requeue --state failed --class unreachable --dry-run
  outboxctl requeue 3e4f5a6b/2 --reason 'mailbox is back'
  outboxctl list -o id --state failed | outboxctl requeue -`,
		},
		{
			op: store.OpHold, past: "held", asks: "They wait until you release or cancel them.", apply: (*store.Store).Hold,
			short: "Set queued deliveries aside",
			long: `Set queued deliveries aside. They wait until you release or cancel them, or until their deadline. To stop a whole
route, with the messages that come later, use "outboxctl pause".

After a restore, run "outboxctl hold --restored" before the first dispatcher starts. The original may have sent since
what waits in the copy, and a dispatcher would send it again. With --restored every delivery that a dispatcher might
send is held: those that are queued, being sent, or uncertain. Then release what must go out, and cancel the rest.`,
			example: `  outboxctl hold 3e4f5a6b
  outboxctl hold --to @example.net --dry-run
  outboxctl hold --restored --dry-run
  outboxctl hold --restored --yes --reason "backup of Monday"`,
		},
		{
			op: store.OpRelease, past: "released", asks: "They are sent when they are due.", apply: (*store.Store).Release,
			short: "Queue held deliveries again",
			long: `Queue held deliveries again. They are sent when they are due. This includes deliveries that a dispatcher held because
it lacked their key.`,
			example: `  outboxctl release 3e4f5a6b
  outboxctl release --class config --yes`,
		},
		{
			op: store.OpResolve, past: "resolved",
			short: "Settle uncertain deliveries",
			long: `Settle uncertain deliveries: they arrived (--sent) or go again (--resend). A delivery is uncertain if the connection or
the process was lost when the relay might have accepted the message. With --resend, a recipient may get a second copy.`,
			example: `  outboxctl list --state uncertain
  outboxctl resolve --sent 3e4f5a6b
  outboxctl resolve --resend --relay primary --yes`,
		},
		{
			op: store.OpCancel, past: "cancelled", asks: "They are never sent.", apply: (*store.Store).Cancel,
			short: "Withdraw deliveries that wait",
			long:  "Withdraw queued and held deliveries. Deliveries that are being sent, or were sent, stay as they are.",
			example: `  outboxctl cancel 3e4f5a6b
  outboxctl cancel --route newsletter --state queued --yes`,
		},
		{
			op: store.OpPurge, past: "purged", asks: "Their history goes, too. This cannot be undone.", apply: (*store.Store).Purge,
			short: "Remove finished deliveries",
			long: `Remove deliveries in a terminal state, with their attempts. A message goes with its last delivery. This cannot be
undone.`,
			example: `  outboxctl purge --state sent --older-than 30d --dry-run
  outboxctl purge --older-than 1w --all --yes`,
		},
	}
}

type operationOptions struct {
	*app
	operation

	filter     selection.Flags
	output     output.Flags
	dryRun     bool
	yes        bool
	all        bool
	exitStatus bool
	risk       string
	sent       bool
	resend     bool
	restored   bool
	reason     string
	args       []string
}

// operationJSON is the JSON of the verbs. Matched counts the deliveries to change, Changed those that were changed.
type operationJSON struct {
	Operation store.Operation `json:"operation"`
	// Resolution is the outcome that resolve sets. It is empty for other verbs.
	Resolution store.Resolution `json:"resolution,omitempty"`
	DryRun     bool             `json:"dry_run"`
	Matched    int64            `json:"matched"`
	Changed    int64            `json:"changed"`
	// States and Routes count the matched deliveries by their state and route before the operation.
	States  map[outbox.State]int64 `json:"states,omitempty"`
	Routes  map[string]int64       `json:"routes,omitempty"`
	Samples []deliveryJSON         `json:"samples,omitempty"`
}

func newOperations(a *app, runF func(context.Context, *operationOptions) error) []*cobra.Command {
	var list []*cobra.Command
	for _, op := range operations() {
		list = append(list, newOperation(a, op, runF))
	}
	return list
}

func newOperation(a *app, op operation, runF func(context.Context, *operationOptions) error) *cobra.Command {
	opts := &operationOptions{app: a, operation: op}
	if runF == nil {
		runF = operationRun
	}
	cmd := &cobra.Command{
		Use:   string(op.op) + " [ID... | -]",
		Short: op.short,
		Long: op.long + "\n\nChoose deliveries by ids, by the flags of `list`, or both. ID stands for a message, ID/SEQ for one\n" +
			"recipient of it. \"-\" reads either from standard input.",
		Example: op.example,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.args = args
			return runF(cmd.Context(), opts)
		},
	}
	opts.filter.Add(cmd)
	fl := cmd.Flags()
	fl.BoolVar(&opts.dryRun, "dry-run", false, "show what would change, and change nothing")
	fl.BoolVarP(&opts.yes, "yes", "y", false, "do not ask")
	fl.BoolVar(&opts.all, "all", false, "choose every delivery; needed if no id and no other flag narrows the choice")
	fl.BoolVar(&opts.exitStatus, "exit-status", false, "exit with 4 if nothing matches")
	fl.StringVar(&opts.reason, "reason", "", "`WHY` you do it, recorded in the history")
	if op.op == store.OpHold {
		fl.BoolVar(&opts.restored, "restored", false, "hold whatever a dispatcher might send, because the database was restored from a copy")
	}
	if op.op == store.OpRequeue {
		fl.StringVar(&opts.risk, "accept-risk", "", "`RISK` that you accept: "+riskDuplicate+" requeues sent deliveries")
	}
	if op.op == store.OpResolve {
		fl.BoolVar(&opts.sent, "sent", false, "record that they arrived")
		fl.BoolVar(&opts.resend, "resend", false, "send them again")
	}
	opts.output.Add(cmd, operationJSON{}, output.Table, output.JSON, output.NDJSON, output.TSV)
	return cmd
}

func operationRun(ctx context.Context, opts *operationOptions) (err error) {
	printer, err := opts.output.Printer(opts.io)
	if err != nil {
		return err
	}
	if opts.restored {
		opts.op, opts.apply = store.OpHoldRestored, (*store.Store).HoldRestored
	}
	filter, names, err := opts.choice()
	if err != nil {
		return err
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
	if err := opts.acceptNamed(chosen); err != nil {
		return err
	}
	result := operationJSON{Operation: opts.verb(), Resolution: opts.resolution(), DryRun: opts.dryRun}
	if err := opts.preview(ctx, db, chosen, &result); err != nil {
		return err
	}
	switch {
	case result.Matched == 0:
		return opts.nothing(ctx, db, chosen, printer, result)
	case opts.dryRun:
		return opts.plan(printer, result)
	}
	switch ok, err := opts.confirm(ctx, chosen, names, result); {
	case err != nil:
		return err
	case !ok:
		fmt.Fprintln(opts.io.Err, "Nothing changed.")
		return nil
	}
	result.Samples = nil
	ctx = store.WithReason(ctx, opts.reason)
	workErr := opts.work(ctx, db, chosen, &result)
	if workErr != nil && result.Changed == 0 {
		return workErr
	}
	if err := opts.report(printer, result); err != nil {
		return err
	}
	if workErr != nil {
		return &exit.Error{
			Err:  workErr,
			Hint: fmt.Sprintf("%d of %d deliveries were %s; the same command does the rest", result.Changed, result.Matched, opts.past),
			Code: exit.Partial,
		}
	}
	return nil
}

// resolution returns the choice between --sent and --resend. It is empty for other verbs than resolve.
func (opts *operationOptions) resolution() store.Resolution {
	switch {
	case opts.sent:
		return store.ResolveSent
	case opts.resend:
		return store.ResolveResend
	default:
		return ""
	}
}

// verb is the name of the command.
func (opts *operationOptions) verb() store.Operation {
	if opts.restored {
		return store.OpHold
	}
	return opts.op
}

// change runs the operation on the deliveries that a filter selects.
func (opts *operationOptions) change(ctx context.Context, s *store.Store, f store.Filter, progress store.BulkOption) (int64, error) {
	if opts.op == store.OpResolve {
		return s.Resolve(ctx, f, opts.resolution(), progress)
	}
	return opts.apply(s, ctx, f, progress)
}

// choice checks the flags that choose deliveries.
func (opts *operationOptions) choice() (store.Filter, selection.Names, error) {
	filter, err := opts.filter.Filter(opts.now())
	if err != nil {
		return filter, selection.Names{}, err
	}
	names, err := opts.filter.Names(opts.args)
	if err != nil {
		return filter, names, err
	}
	if opts.risk != "" && opts.risk != riskDuplicate {
		return filter, names, exit.Usagef("the only risk is "+riskDuplicate, "--accept-risk: %q is not a risk of this command", opts.risk)
	}
	if opts.op == store.OpResolve && opts.sent == opts.resend {
		return filter, names, exit.Usagef("--sent if the recipients have it, --resend if not", "resolve needs either --sent or --resend")
	}
	if filter.Empty() && names.None() && !opts.all && !opts.restored {
		return filter, names, exit.Usagef(fmt.Sprintf("`outboxctl %s --all --dry-run` shows what would change", opts.op),
			"%s needs ids, a filter, or --all", opts.op)
	}
	sent := slices.Contains(filter.States, outbox.StateSent)
	switch {
	case opts.op != store.OpRequeue:
	case sent && opts.risk == "":
		return filter, names, errSent("the recipients of sent deliveries would get a second copy")
	case !sent && len(filter.States) == 0 && !names.None() && opts.risk == riskDuplicate:
		// The messages are named and the risk is accepted, so sent deliveries are included.
		filter.States = []outbox.State{outbox.StateSent, outbox.StateFailed, outbox.StateExpired, outbox.StateQueued}
	}
	return filter, names, nil
}

// acceptNamed lets a requeueing with the accepted risk take the cancelled and suppressed recipients, too, if each was named.
func (opts *operationOptions) acceptNamed(chosen *selection.Selection) error {
	if opts.op != store.OpRequeue || opts.risk != riskDuplicate || opts.filter.HasStates() || len(chosen.Deliveries) == 0 {
		return nil
	}
	if len(chosen.IDs) > 0 {
		return exit.Usagef("give those in two commands", "--accept-risk takes either messages or single recipients (ID/SEQ)")
	}
	chosen.Filter.States = append(chosen.Filter.States, outbox.StateCancelled, outbox.StateSuppressed)
	return nil
}

func errSent(sentence string) error {
	return exit.Usagef("add --accept-risk="+riskDuplicate+" if that is what you want", "%s", sentence)
}
