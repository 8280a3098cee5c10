// Package command holds the commands of outboxctl, one file for each. A command consists of a struct of options, a function
// that fills it from the flags, and a function that does the work.
package command

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/connect"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/iostreams"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
)

// app holds the streams, the clock and the flags that all commands share.
type app struct {
	io  *iostreams.Streams
	now func() time.Time

	db      string
	schema  string
	keyFile string
	color   string
	verbose bool

	// parsed is true once the command line was read. An error before that is a mistake in the command line.
	parsed bool
}

// Main runs the program with its arguments and returns the exit code.
func Main(args []string) int {
	// The first signal cancels the command. The second one kills the process.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	a := &app{io: iostreams.System(), now: time.Now}
	return a.run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	root := newRoot(a) //nolint:contextcheck // the commands get the context later
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exit.OK
	}
	sentence, hint, code := exit.Explain(err)
	switch {
	case ctx.Err() != nil:
		sentence, code = "interrupted", exit.Interrupted
	case !a.parsed && code == exit.Failed:
		code = exit.Usage
	}
	if code == exit.Usage && hint == "" {
		hint = fmt.Sprintf("`%s --help` shows how it is used", cmd.CommandPath())
	}
	a.complain(sentence, hint)
	return code
}

// complain writes an error and a hint.
func (a *app) complain(sentence, hint string) {
	if sentence == "" {
		return
	}
	fmt.Fprintf(a.io.Err, "outboxctl: %s %s\n", iostreams.Paint("error:", iostreams.Red, a.io.ErrColor), oneLine(sentence))
	if hint != "" {
		fmt.Fprintf(a.io.Err, "%s %s\n", iostreams.Paint("hint:", iostreams.Bold, a.io.ErrColor), oneLine(hint))
	}
}

// notef writes a sentence to standard error.
func (a *app) notef(format string, args ...any) {
	fmt.Fprintf(a.io.Err, "outboxctl: %s\n", oneLine(fmt.Sprintf(format, args...)))
}

// oneLine joins the lines of an error and removes control characters.
func oneLine(s string) string { return output.Clean(strings.ReplaceAll(s, "\n", "; ")) }

// logger logs to standard error from the given level on, or from debug with --verbose.
func (a *app) logger(level slog.Level) *slog.Logger {
	if a.verbose {
		level = slog.LevelDebug
	}
	return slog.New(tint.NewTextHandler(a.io.Err, &tint.Options{Level: level, TimeFormat: time.RFC3339, NoColor: !a.io.ErrColor}))
}

// open opens the database and checks that its tables have the version of this program.
func (a *app) open(ctx context.Context) (*connect.Database, error) {
	return connect.OpenStore(ctx, a.target())
}

func (a *app) databaseURL() string {
	if a.db != "" {
		return a.db
	}
	return a.io.Getenv(connect.EnvDatabase)
}

// target returns the database and schema that the flags or the environment name.
func (a *app) target() connect.Target {
	t := connect.Target{URL: a.databaseURL(), Schema: a.schema}
	if t.Schema == "" {
		t.Schema = a.io.Getenv(connect.EnvSchema)
	}
	return t
}

// needs checks the number of arguments. If most is -1, there is no upper limit. The error names the arguments by what.
func needs(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return exit.Usagef("", "%s is missing", what)
		case most == 0 && len(args) > 0:
			return exit.Usagef("", "%s takes no arguments, but got %q", cmd.Name(), args[0])
		case most > 0 && len(args) > most:
			return exit.Usagef("", "%s takes %s only, but also got %q", cmd.Name(), what, args[most])
		default:
			return nil
		}
	}
}

// knownCommand returns an error for an unknown command and suggests similar ones.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
		hint = "did you mean " + strings.Join(similar, " or ") + "?"
	}
	return exit.Usagef(hint, "there is no command %q", args[0])
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "outboxctl",
		Short: "Look at and mend an outbox of e-mail",
		Long: `outboxctl shows and mends the outbox of an application. The outbox holds e-mail in the application's own database, and
a dispatcher delivers it through an SMTP relay.`,
		Example: `  export OUTBOX_DB=postgres://app@db.example.com/shop
  outboxctl status
  outboxctl list --state failed --newer-than 24h
  outboxctl show 3e4f5a6b
  outboxctl list -o id --state failed --class unreachable | outboxctl requeue -`,
		Args:          knownCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if !a.io.SetColor(a.color) {
				return exit.Usagef("use auto, always or never", "--color: %q is not a way to use colour", a.color)
			}
			a.parsed = true
			return nil
		},
	}
	root.SetIn(a.io.In)
	root.SetOut(a.io.Out)
	root.SetErr(a.io.Err)
	root.SetHelpTemplate(helpTemplate)
	root.SetUsageTemplate(usageTemplate)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return exit.Usagef("", "%w", err) })
	root.SuggestionsMinimumDistance = 2
	fl := root.PersistentFlags()
	fl.StringVar(&a.db, "db", "", "database `URL`: sqlite:PATH, PATH.db or postgres://… (env OUTBOX_DB)")
	fl.StringVar(&a.schema, "schema", "", "PostgreSQL schema `NAME` that holds the tables (env OUTBOX_SCHEMA)")
	fl.StringVar(&a.keyFile, "key-file", "", "`FILE` with the keys of encrypted messages (env "+keysVariable+")")
	fl.StringVar(&a.color, "color", "auto", "`WHEN` to use colour: auto, always or never")
	fl.BoolVarP(&a.verbose, "verbose", "v", false, "log more")

	root.AddGroup(&cobra.Group{ID: groupSee, Title: "See"}, &cobra.Group{ID: groupMend, Title: "Mend"},
		&cobra.Group{ID: groupSend, Title: "Send"}, &cobra.Group{ID: groupSetUp, Title: "Set up"})
	for group, commands := range map[string][]*cobra.Command{
		groupSee:   {newStatus(a, nil), newList(a, nil), newShow(a, nil), newCat(a, nil), newHistory(a, nil)},
		groupMend:  append(newOperations(a, nil), newPause(a, nil), newResume(a, nil), newSuppress(a, nil), newRekey(a, nil)),
		groupSend:  {newEnqueue(a, nil), newFlush(a, nil), newRun(a, nil)},
		groupSetUp: {newMigrate(a), newVersion(a, nil)},
	} {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	root.SetHelpCommandGroupID(groupSetUp)
	root.SetCompletionCommandGroupID(groupSetUp)
	root.AddCommand(helpTopics()...)
	return root
}

// The groups of commands in the help.
const (
	groupSee   = "see"
	groupMend  = "mend"
	groupSend  = "send"
	groupSetUp = "setup"
)
