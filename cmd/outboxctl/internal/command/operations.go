package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/connect"
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

// preview counts the deliveries that the operation would change. It uses the same predicate as the operation.
func (opts *operationOptions) preview(ctx context.Context, db *connect.Database, chosen *selection.Selection, result *operationJSON) error {
	f, ok := chosen.Whole()
	if !ok {
		return nil
	}
	counts, err := db.Store.Tally(ctx, opts.op, f)
	if err != nil {
		return err
	}
	result.States, result.Routes = make(map[outbox.State]int64), make(map[string]int64)
	for _, c := range counts {
		result.Matched += c.Deliveries
		result.States[c.State] += c.Deliveries
		result.Routes[c.Route] += c.Deliveries
	}
	if !opts.dryRun {
		return nil
	}
	reveal, err := opts.revealer()
	if err != nil {
		return err
	}
	_, list, err := db.Store.DryRun(ctx, opts.op, f, samples)
	for _, d := range list {
		reveal(&d)
		result.Samples = append(result.Samples, viewDelivery(d))
	}
	return err
}

// nothing reports that the operation matched no delivery.
func (opts *operationOptions) nothing(
	ctx context.Context, db *connect.Database, chosen *selection.Selection, printer *output.Printer, result operationJSON,
) error {
	if opts.op == store.OpRequeue && opts.risk == "" && chosen.Size() > 0 {
		sent, _ := chosen.Whole()
		sent.States = []outbox.State{outbox.StateSent}
		if n, err := db.Store.Count(ctx, sent); err != nil {
			return err
		} else if n > 0 {
			return errSent("it was sent already: its recipients would get a second copy")
		}
	}
	if err := opts.report(printer, result); err != nil {
		return err
	}
	if opts.exitStatus {
		return exit.Silent(exit.NoMatch)
	}
	return opts.explain(ctx, db, chosen)
}

// explain says why the operation does not apply to what was chosen: the states of the first that were named, or of all that match.
func (opts *operationOptions) explain(ctx context.Context, db *connect.Database, chosen *selection.Selection) error {
	f, ok := chosen.Whole()
	if !ok {
		return nil
	}
	if chosen.Named {
		f.Limit = samples
		list, err := db.Store.List(ctx, f)
		for _, d := range list {
			opts.notef("%s to %s is %s", d.ID, d.Recipient, d.Shown())
		}
		return err
	}
	counts, err := db.Store.CountBy(ctx, f, store.ByState, samples)
	if err != nil || len(counts) == 0 {
		return err
	}
	words := make([]string, len(counts))
	for i, c := range counts {
		words[i] = grouped(c.Deliveries) + " " + c.Value
	}
	opts.notef("what matches is %s; %s", strings.Join(words, ", "), startsFrom[opts.op])
	return nil
}

// startsFrom says which deliveries a verb changes.
var startsFrom = map[store.Operation]string{
	store.OpRequeue: "requeue takes failed, expired and deferred deliveries, others if --state names them",
	store.OpHold:    "only queued deliveries are held",
	store.OpRelease: "only held deliveries are released",
	store.OpResolve: "only uncertain deliveries are resolved",
	store.OpCancel:  "only queued and held deliveries are cancelled",
	store.OpPurge:   "only finished deliveries are purged; cancel the others first",

	store.OpHoldRestored: "queued, sending and uncertain deliveries are held",
}

// confirm asks a question, unless --yes was given or the deliveries were named one by one. It also asks before it purges whole
// messages, if somebody is there to answer.
func (opts *operationOptions) confirm(
	ctx context.Context, chosen *selection.Selection, names selection.Names, result operationJSON,
) (bool, error) {
	asked := opts.io.InTTY && opts.io.ErrTTY && !names.FromInput
	if opts.yes || chosen.Named && (opts.op != store.OpPurge || len(chosen.IDs) == 0 || !asked) {
		return true, nil
	}
	if !asked {
		return false, exit.Usagef("", "%s be %s (%s). Not a terminal: add --yes",
			count(result.Matched, "delivery would", "deliveries would"), opts.past, shares(result.States))
	}
	ok, err := opts.io.Confirm(ctx, opts.question(result))
	if err != nil {
		err = fmt.Errorf("read the answer: %w", err)
	}
	return ok, err
}

// question says what will happen, to how many deliveries, in which states or on which routes.
func (opts *operationOptions) question(result operationJSON) string {
	switch opts.resolution() {
	case store.ResolveSent:
		return fmt.Sprintf("Record %s as sent (%s)? They are not sent again.",
			count(result.Matched, "uncertain delivery", "uncertain deliveries"), shares(result.Routes))
	case store.ResolveResend:
		return fmt.Sprintf("Send %s again (%s)? Some recipients may get a second copy.",
			count(result.Matched, "uncertain delivery", "uncertain deliveries"), shares(result.Routes))
	}
	consequence := opts.asks
	if result.States[outbox.StateSent] > 0 && opts.op == store.OpRequeue {
		consequence = "The recipients of the sent ones get a second copy."
	}
	return fmt.Sprintf("%s %s (%s)? %s",
		title(string(opts.verb())), count(result.Matched, "delivery", "deliveries"), shares(result.States), consequence)
}

// mostShares is how many states or routes a question names.
const mostShares = 4

// shares lists numbers with their names, the largest first.
func shares[K ~string](counts map[K]int64) string {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b K) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	words := make([]string, 0, len(names))
	for i, name := range names {
		if i == mostShares && len(names) > mostShares+1 {
			words = append(words, fmt.Sprintf("%d others", len(names)-mostShares))
			break
		}
		words = append(words, grouped(counts[name])+" "+string(name))
	}
	return strings.Join(words, ", ")
}

// work runs the operation and counts what changed.
func (opts *operationOptions) work(ctx context.Context, db *connect.Database, chosen *selection.Selection, result *operationJSON) error {
	bar := newProgress(opts.io, result.Matched)
	defer bar.finish()
	f, ok := chosen.Whole()
	if !ok {
		return nil
	}
	n, err := opts.change(ctx, db.Store, f, store.OnProgress(bar.set))
	result.Changed = n
	return err
}

// plan prints the result of a dry run.
func (opts *operationOptions) plan(printer *output.Printer, result operationJSON) error {
	return printer.Object(result, "", func(r *output.Rows) {
		if printer.Format() == output.TSV {
			r.Head("operation", "matched", "changed")
			r.Add(output.Text(string(opts.verb())), output.Int(result.Matched), output.Int(result.Changed))
			return
		}
		r.Add(output.Text(fmt.Sprintf("%s would be %s (%s), for example:",
			count(result.Matched, "delivery", "deliveries"), opts.outcome(), shares(result.States))))
		r.Section("", output.Column{Title: "ID"}, output.Column{Title: "STATE"}, output.Column{Title: "TO", Shrink: true},
			output.Column{Title: "SUBJECT", Shrink: true})
		for _, d := range result.Samples {
			r.Add(idCell(d.ID, d.Seq), output.Cell{Text: d.Shown, Color: stateColor(d.State)}, output.Text(d.Recipient), sampleSubject(d))
		}
	})
}

// sampleSubject shows the subject of a sample, or a note that it is encrypted.
func sampleSubject(d deliveryJSON) output.Cell {
	if len(d.Sealed) > 0 {
		return output.Text(encryptedWith(d.EncryptionKey))
	}
	return output.Text(d.Subject)
}

// report prints the result.
func (opts *operationOptions) report(printer *output.Printer, result operationJSON) error {
	return printer.Object(result, "", func(r *output.Rows) {
		switch {
		case printer.Format() == output.TSV:
			r.Head("operation", "matched", "changed")
			r.Add(output.Text(string(opts.verb())), output.Int(result.Matched), output.Int(result.Changed))
		case result.Matched == 0:
			r.Add(output.Text("Nothing to " + string(opts.verb()) + "."))
		default:
			r.Add(output.Text(fmt.Sprintf("%s %s.", count(result.Changed, "delivery was", "deliveries were"), opts.outcome())))
		}
	})
}

// outcome is the participle for the results.
func (opts *operationOptions) outcome() string {
	switch opts.resolution() {
	case store.ResolveSent:
		return "recorded as sent"
	case store.ResolveResend:
		return "queued again"
	default:
		return opts.past
	}
}

func title(s string) string { return string(s[0]-'a'+'A') + s[1:] }
