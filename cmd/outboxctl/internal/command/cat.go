package command

import (
	"bytes"
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
	"github.com/outboxmail/outbox/queue"
)

type catOptions struct {
	*app
	name string
}

func newCat(a *app, runF func(context.Context, *catOptions) error) *cobra.Command {
	opts := &catOptions{app: a}
	if runF == nil {
		runF = catRun
	}
	return &cobra.Command{
		Use:   "cat ID",
		Short: "Print a message",
		Long: `Print a message as it is stored, decrypted, in the format of RFC 5322. A relay gets more: the dispatcher adds the header
fields of the provider and a signature. On a terminal, control characters are replaced. An encrypted message needs its
key: --key-file or ` + keysVariable + `.`,
		Example: `  outboxctl cat 3e4f5a6b > message.eml
  outboxctl cat 3e4f5a6b | less`,
		Args: needs(1, 1, "the id of a message"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.name = args[0]
			return runF(cmd.Context(), opts)
		},
	}
}

func catRun(ctx context.Context, opts *catOptions) (err error) {
	db, err := opts.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	id, err := db.Store.Find(ctx, messageOf(opts.name))
	if err != nil {
		return err
	}
	body, err := db.Store.Body(ctx, id)
	switch {
	case errors.Is(err, queue.ErrNoBody):
		return &exit.Error{Err: err, Hint: "`outboxctl show " + string(id) + "` shows what is left of it"}
	case err != nil:
		return err
	}
	if body, err = opts.openBody(id, body); err != nil {
		return err
	}
	if opts.io.OutTTY {
		body = harmless(body)
	}
	_, err = opts.io.Out.Write(body)
	return err
}

// harmless replaces the characters in a message that would control a terminal.
func harmless(body []byte) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(body) {
		out.WriteString(output.Clean(string(bytes.TrimRight(line, "\r\n"))))
		out.WriteByte('\n')
	}
	return out.Bytes()
}
