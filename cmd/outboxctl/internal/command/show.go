package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/selection"
	"github.com/outboxmail/outbox/keyring"
	"github.com/outboxmail/outbox/store"
)

type showOptions struct {
	*app
	output output.Flags
	name   string
}

func newShow(a *app, runF func(context.Context, *showOptions) error) *cobra.Command {
	opts := &showOptions{app: a}
	if runF == nil {
		runF = showRun
	}
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show all about one message",
		Long: `Show a message, the state of each recipient, the earlier attempts, and what the provider reported later. Give the id,
its last digits (eight are enough), or the Message-ID.`,
		Example: `  outboxctl show 3e4f5a6b
  outboxctl show '<01934a5b-c6d7-7e8f-9a0b-1c2d3e4f5a6b@example.com>' -o json`,
		Args: needs(1, 1, "the id of a message"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.name = args[0]
			return runF(cmd.Context(), opts)
		},
	}
	opts.output.Add(cmd, messageJSON{}, output.Table, output.JSON, output.NDJSON, output.TSV, output.ID)
	return cmd
}

func showRun(ctx context.Context, opts *showOptions) (err error) {
	printer, err := opts.output.Printer(opts.io)
	if err != nil {
		return err
	}
	db, err := opts.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	id, err := db.Store.Find(ctx, messageOf(opts.name))
	if err != nil {
		return err
	}
	m, err := db.Store.Get(ctx, id)
	if err != nil {
		return err
	}
	if err := opts.revealMessage(m); err != nil {
		return err
	}
	return printer.Object(viewMessage(m), string(m.ID), func(r *output.Rows) { opts.showMessage(r, m) })
}

// showMessage writes the properties of the message, its deliveries, the attempts, and the later reports.
func (opts *showOptions) showMessage(r *output.Rows, m *store.Message) {
	now := opts.now()
	sender := m.Sender
	if sender == "" {
		sender = "<>"
	}
	r.Pair("id", output.Text(string(m.ID)))
	r.Pair("message-id", output.Text(m.MessageID))
	r.Pair("subject", subjectCell(m.KeyID, m.Subject))
	r.Pair("from", output.Text(sender))
	r.Pair("key", output.Text(m.IdempotencyKey))
	r.Pair("route", output.Text(m.Route))
	r.Pair("priority", output.Text(string(m.Priority)))
	r.Pair("size", output.Int(m.Size))
	switch {
	case m.Scrubbed:
		r.Pair("body", output.Text("scrubbed: body and metadata were removed"))
	case m.KeyID != "":
		r.Pair("body", output.Text(encryptedWith(m.KeyID)))
	}
	r.Pair("enqueued", absolute(m.CreatedAt, now))
	r.Pair("not before", absolute(m.NotBefore, now))
	r.Pair("expires", absolute(m.ExpiresAt, now))
	r.Pair("on uncertain", output.Text(string(m.OnUncertain)))
	r.Pair("tags", output.Text(strings.Join(m.Tags, ", ")))
	if keyring.IsSealedMetadata(m.Metadata) {
		r.Pair("metadata", output.Text(encryptedWith(m.KeyID)))
	}
	for _, key := range slices.Sorted(maps.Keys(viewMetadata(m.Metadata))) {
		r.Pair("metadata "+key, output.Text(m.Metadata[key]))
	}
	r.Section("Recipients", output.Column{Title: "#", Right: true}, output.Column{Title: "STATE"}, output.Column{Title: "TO"},
		output.Column{Title: "TRIES", Right: true}, output.Column{Title: "WHEN"}, output.Column{Title: "RELAY"},
		output.Column{Title: "CLASS"}, output.Column{Title: "LAST REPLY"})
	for _, d := range m.Deliveries {
		r.Add(output.Int(d.Seq), stateCell(d), output.Text(d.Recipient), output.Int(d.Attempts), output.Time(when(d), now),
			output.Text(d.Relay), output.Text(d.Class), output.Text(d.Reply))
	}
	opts.showAttempts(r, m.Attempts)
	opts.showFeedback(r, m.Feedback)
}

func (opts *showOptions) showAttempts(r *output.Rows, list []store.Attempt) {
	if len(list) == 0 {
		return
	}
	now := opts.now()
	r.Section("Earlier attempts", output.Column{Title: "#", Right: true}, output.Column{Title: "WHEN"},
		output.Column{Title: "TOOK"}, output.Column{Title: "OUTCOME"}, output.Column{Title: "RELAY"},
		output.Column{Title: "STAGE"}, output.Column{Title: "CLASS"}, output.Column{Title: "REPLY"})
	for _, a := range list {
		r.Add(output.Int(a.Seq), output.Time(a.StartedAt, now), output.Text(output.Duration(a.Duration)), output.Text(string(a.Verb)),
			output.Text(a.Relay), output.Text(a.Stage), output.Text(a.Class), output.Text(a.Reply))
	}
}

func (opts *showOptions) showFeedback(r *output.Rows, list []store.Feedback) {
	if len(list) == 0 {
		return
	}
	now := opts.now()
	r.Section("Reports of the provider", output.Column{Title: "#", Right: true}, output.Column{Title: "WHEN"},
		output.Column{Title: "KIND"}, output.Column{Title: "CODE"}, output.Column{Title: "DETAIL"})
	for _, f := range list {
		code := f.Enhanced
		if f.Code != 0 {
			code = strings.TrimSpace(strconv.Itoa(f.Code) + " " + code)
		}
		r.Add(output.Int(f.Seq), output.Time(f.At, now), output.Text(string(f.Kind)), output.Text(code), output.Text(f.Detail))
	}
}

// absolute returns a cell with a time and its distance from now.
func absolute(t, now time.Time) output.Cell {
	cell := output.Time(t, now)
	if cell.Text != "" {
		cell.Short = fmt.Sprintf("%s (%s)", cell.Text, cell.Short)
	}
	return cell
}

// messageOf returns the name of the message in a name that may be that of one recipient.
func messageOf(name string) string {
	message, _ := selection.Split(name)
	return message
}
