package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/connect"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/selection"
)

// largestInput is the largest size of a file or of standard input, in bytes. The library's limit for messages is lower.
const largestInput = 256 << 20

type enqueueOptions struct {
	*app
	output output.Flags

	from, envelopeFrom   string
	to, cc, bcc, replyTo []string
	subject, text, html  string
	textFile, htmlFile   string
	attach, header       []string
	eml                  string
	key, route, priority string
	notBefore, expires   string
	onUncertain          string
	tags                 []string
	metadata             map[string]string
	sealDetails          bool
}

// receiptJSON is the JSON of `outboxctl enqueue`.
type receiptJSON struct {
	ID        outbox.ID `json:"id"`
	MessageID string    `json:"message_id"`
	Duplicate bool      `json:"duplicate"`
}

func newEnqueue(a *app, runF func(context.Context, *enqueueOptions) error) *cobra.Command {
	opts := &enqueueOptions{app: a}
	if runF == nil {
		runF = enqueueRun
	}
	cmd := &cobra.Command{
		Use:   "enqueue",
		Short: "Store a message for delivery",
		Long: `Store a message for delivery and print its receipt. Compose it from flags, or give it complete as a file. A dispatcher
sends it: "outboxctl run", "outboxctl flush" or the application's own. With keys (--key-file) the body is encrypted,
with --seal-details also the subject and the metadata.`,
		Example: `  outboxctl enqueue --from shop@example.com --to ann@example.net --subject Hello --text 'Hi Ann!'
  outboxctl enqueue … --text-file - --attach report.pdf < text
  outboxctl enqueue --eml message.eml --key invoice-4711
  outboxctl enqueue … --not-before 2h --expires 24h --priority high`,
		Args: needs(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := compatible(cmd.Flags()); err != nil {
				return err
			}
			return runF(cmd.Context(), opts)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&opts.from, "from", "", "author `ADDRESS`, with or without a name")
	fl.StringArrayVar(&opts.to, "to", nil, "recipient `ADDRESS`; repeat it, or separate several by commas")
	fl.StringArrayVar(&opts.cc, "cc", nil, "recipient `ADDRESS` of a copy")
	fl.StringArrayVar(&opts.bcc, "bcc", nil, "recipient `ADDRESS` of a copy, hidden from the others")
	fl.StringArrayVar(&opts.replyTo, "reply-to", nil, "`ADDRESS` for answers (default that of --from)")
	fl.StringVar(&opts.envelopeFrom, "envelope-from", "", "`ADDRESS` for bounces, or <> for none (default that of --from)")
	fl.StringVar(&opts.subject, "subject", "", "subject `TEXT`")
	fl.StringVar(&opts.text, "text", "", "`TEXT` of the message")
	fl.StringVar(&opts.textFile, "text-file", "", "read the text from `FILE`, or - for standard input")
	fl.StringVar(&opts.html, "html", "", "`HTML` of the message")
	fl.StringVar(&opts.htmlFile, "html-file", "", "read the HTML from `FILE`, or - for standard input")
	fl.StringArrayVar(&opts.attach, "attach", nil, "attach `FILE`; repeatable")
	fl.StringArrayVar(&opts.header, "header", nil, "extra header `FIELD`, as in 'X-Campaign: spring'; repeatable")
	fl.StringVar(&opts.eml, "eml", "", "take the complete message (RFC 5322) from `FILE`, or - for standard input")
	fl.StringVar(&opts.key, "key", "", "idempotency `KEY`: a second message with the same key is not stored")
	fl.StringVar(&opts.route, "route", "", "`NAME` of the route (default \"default\")")
	fl.StringVar(&opts.priority, "priority", "", "`PRIORITY`: high, normal or bulk (default normal)")
	fl.StringVar(&opts.notBefore, "not-before", "", "send no earlier than this `TIME` (RFC 3339) or after this duration (90m, 2d)")
	fl.StringVar(&opts.expires, "expires", "", "do not send after this `TIME` or duration")
	fl.StringVar(&opts.onUncertain, "on-uncertain", "", "`POLICY` for an unknown outcome: resend or hold (default resend)")
	fl.StringArrayVar(&opts.tags, "tag", nil, "`LABEL` for reports; repeatable")
	fl.StringToStringVar(&opts.metadata, "metadata", nil, "`KEY=VALUE` to keep with the message; repeatable")
	fl.BoolVar(&opts.sealDetails, "seal-details", false, "also encrypt the subject and the metadata; they cannot be searched then")
	opts.output.Add(cmd, receiptJSON{}, output.Table, output.JSON, output.NDJSON, output.TSV, output.ID)
	return cmd
}

// compatible returns an error for flags that exclude each other.
func compatible(fl *pflag.FlagSet) error {
	for _, pair := range [][2]string{
		{"eml", "from"}, {"eml", "reply-to"}, {"eml", "subject"}, {"eml", "text"}, {"eml", "text-file"}, {"eml", "html"},
		{"eml", "html-file"}, {"eml", "attach"}, {"eml", "header"}, {"text", "text-file"}, {"html", "html-file"},
	} {
		if fl.Changed(pair[0]) && fl.Changed(pair[1]) {
			return exit.Usagef("", "--%s and --%s do not go together", pair[0], pair[1])
		}
	}
	return nil
}

func enqueueRun(ctx context.Context, opts *enqueueOptions) (err error) {
	printer, err := opts.output.Printer(opts.io)
	if err != nil {
		return err
	}
	msg, err := opts.message()
	if err != nil {
		return err
	}
	keys, err := opts.keyRing()
	if err != nil {
		return err
	}
	if opts.sealDetails && keys == nil {
		return exit.Usagef(hintKeys, "--seal-details needs keys")
	}
	db, err := opts.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	out, err := outbox.New(outbox.Config{Keys: keys, SealDetails: opts.sealDetails, Schema: db.Schema})
	if err != nil {
		return err
	}
	receipt, err := commitOne(ctx, db, out, msg)
	if err != nil {
		return err
	}
	v := receiptJSON{ID: receipt.ID, MessageID: receipt.MessageID, Duplicate: receipt.Duplicate}
	return printer.Object(v, string(receipt.ID), func(r *output.Rows) {
		outcome := "enqueued"
		if receipt.Duplicate {
			outcome = "duplicate"
		}
		r.Section("", output.Column{Title: "ID"}, output.Column{Title: "OUTCOME"}, output.Column{Title: "MESSAGE-ID"})
		r.Add(output.Text(string(receipt.ID)), output.Text(outcome), output.Text(receipt.MessageID))
	})
}

// commitOne stores a message in a transaction of its own.
func commitOne(ctx context.Context, db *connect.Database, out *outbox.Outbox, msg *outbox.Message) (outbox.Receipt, error) {
	tx, err := db.SQL.BeginTx(ctx, nil)
	if err != nil {
		return outbox.Receipt{}, &exit.Error{Err: fmt.Errorf("begin a transaction: %w", err), Code: exit.Database}
	}
	receipt, err := out.Enqueue(ctx, tx, msg)
	if err != nil {
		return outbox.Receipt{}, errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return outbox.Receipt{}, fmt.Errorf("commit: %w", err)
	}
	return receipt, nil
}

// message builds the message from the flags. outbox.Enqueue checks its contents.
func (opts *enqueueOptions) message() (*outbox.Message, error) {
	m := &outbox.Message{
		Subject: opts.subject, EnvelopeFrom: opts.envelopeFrom, Key: opts.key, Route: opts.route,
		Priority: outbox.Priority(opts.priority), OnUncertain: outbox.UncertainPolicy(opts.onUncertain),
		Tags: opts.tags, Metadata: opts.metadata,
	}
	for _, step := range []func(*outbox.Message) error{opts.addresses, opts.times, opts.content, opts.headers} {
		if err := step(m); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (opts *enqueueOptions) addresses(m *outbox.Message) error {
	if opts.from != "" {
		from, err := mail.ParseAddress(opts.from)
		if err != nil {
			return badAddress("from", opts.from, err)
		}
		m.From = *from
	}
	for _, list := range []struct {
		flag   string
		values []string
		to     *[]outbox.Address
	}{{"to", opts.to, &m.To}, {"cc", opts.cc, &m.Cc}, {"bcc", opts.bcc, &m.Bcc}, {"reply-to", opts.replyTo, &m.ReplyTo}} {
		for _, value := range list.values {
			parsed, err := mail.ParseAddressList(value)
			if err != nil {
				return badAddress(list.flag, value, err)
			}
			for _, a := range parsed {
				*list.to = append(*list.to, *a)
			}
		}
	}
	return nil
}

func badAddress(flag, value string, err error) error {
	reason := strings.TrimPrefix(err.Error(), "mail: ")
	return exit.Usagef("write ann@example.com or 'Ann <ann@example.com>'", "--%s: %q is not an address: %s", flag, value, reason)
}

func (opts *enqueueOptions) times(m *outbox.Message) error {
	for _, moment := range []struct {
		flag, value string
		to          *time.Time
	}{{"not-before", opts.notBefore, &m.NotBefore}, {"expires", opts.expires, &m.Expires}} {
		if moment.value == "" {
			continue
		}
		t, err := selection.ParseAhead(moment.value, opts.now())
		if err != nil {
			return exit.Usagef("write a time such as 2026-03-01T08:00:00Z, or a duration such as 90m or 2d", "--%s: %w", moment.flag, err)
		}
		*moment.to = t
	}
	return nil
}

// content reads the body and the attachments.
func (opts *enqueueOptions) content(m *outbox.Message) error {
	m.Text, m.HTML = opts.text, opts.html
	if opts.textFile == "-" && opts.htmlFile == "-" {
		return exit.Usagef("", "--text-file and --html-file cannot both read standard input")
	}
	for _, source := range []struct {
		flag, path string
		put        func([]byte)
	}{
		{"eml", opts.eml, func(b []byte) { m.Raw = b }},
		{"text-file", opts.textFile, func(b []byte) { m.Text = string(b) }},
		{"html-file", opts.htmlFile, func(b []byte) { m.HTML = string(b) }},
	} {
		if source.path == "" {
			continue
		}
		data, err := opts.read(source.path)
		if err != nil {
			return &exit.Error{Err: fmt.Errorf("--%s: %w", source.flag, err)}
		}
		if len(data) == 0 {
			return exit.Usagef("", "--%s: %s is empty", source.flag, source.path)
		}
		source.put(data)
	}
	for _, path := range opts.attach {
		if path == "-" {
			return exit.Usagef("an attachment needs a file, for its name", "--attach cannot read standard input")
		}
		data, err := opts.read(path)
		if err != nil {
			return &exit.Error{Err: fmt.Errorf("--attach: %w", err)}
		}
		m.Attachments = append(m.Attachments, outbox.Attachment{Name: filepath.Base(path), Data: data})
	}
	return nil
}

// read reads a file, or standard input for "-".
func (opts *enqueueOptions) read(path string) ([]byte, error) {
	in := opts.io.In
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, largestInput+1))
	if err == nil && len(data) > largestInput {
		err = fmt.Errorf("%s is larger than %d MiB", path, largestInput>>20)
	}
	return data, err
}

func (opts *enqueueOptions) headers(m *outbox.Message) error {
	for _, field := range opts.header {
		name, value, ok := strings.Cut(field, ":")
		if !ok {
			return exit.Usagef("write --header 'Name: value'", "--header: %q has no colon", field)
		}
		if m.Header == nil {
			m.Header = map[string][]string{}
		}
		m.Header[name] = append(m.Header[name], strings.TrimPrefix(value, " "))
	}
	return nil
}
