package command

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/connect"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/selection"
	"github.com/outboxmail/outbox/store"
)

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
