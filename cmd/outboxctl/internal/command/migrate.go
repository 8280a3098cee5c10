package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/connect"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
	"github.com/outboxmail/outbox/schema"
)

// migrationJSON is the JSON of `outboxctl migrate up` and `status`.
type migrationJSON struct {
	Dialect string `json:"dialect"`
	Version int    `json:"version"`
	Latest  int    `json:"latest"`
	Changed bool   `json:"changed"`
}

type migrateOptions struct {
	*app
	output     output.Flags
	exitStatus bool

	applicationID string
}

type migrateSQLOptions struct {
	*app
	dialect string
	from    int
}

func newMigrate(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Create and update the tables",
		Long: `Create and update the tables of the outbox in the application's database. Missing steps are applied in one transaction.
Any number of processes may migrate at the same time.`,
		Example: `  outboxctl migrate up --db sqlite:app.db
  outboxctl migrate status
  outboxctl migrate sql --dialect postgres > outbox.sql
  outboxctl migrate up --schema mail`,
		Args: needs(1, 0, "a verb (up, status or sql)"),
		RunE: func(*cobra.Command, []string) error { return nil }, // any argument was refused before
	}
	cmd.AddCommand(newMigrateUp(a, nil), newMigrateStatus(a, nil), newMigrateSQL(a, nil))
	return cmd
}

func newMigrateUp(a *app, runF func(context.Context, *migrateOptions) error) *cobra.Command {
	opts := &migrateOptions{app: a}
	if runF == nil {
		runF = migrateUpRun
	}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring the database to the version of this program",
		Long: `Bring the database to the version of this program. A missing SQLite file or PostgreSQL schema is created.

An application may mark its SQLite file (PRAGMA application_id). Such a file is refused, because it may be the wrong
one. If it is the right one, name the mark with --application-id.`,
		Example: `  outboxctl migrate up --db sqlite:app.db
  outboxctl migrate up --db postgres://owner@db.example.com/shop --schema mail`,
		Args: needs(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	cmd.Flags().StringVar(&opts.applicationID, "application-id", "", "migrate an SQLite file with this mark: `NUMBER`")
	opts.output.Add(cmd, migrationJSON{}, output.Table, output.JSON, output.NDJSON, output.TSV)
	return cmd
}

func migrateUpRun(ctx context.Context, opts *migrateOptions) (err error) {
	printer, err := opts.output.Printer(opts.io)
	if err != nil {
		return err
	}
	db, err := connect.Open(ctx, opts.target(), connect.Create)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	before, err := schema.Version(ctx, db.SQL, db.In()...)
	if err != nil {
		return &exit.Error{Err: err, Code: exit.Database}
	}
	in, err := opts.migrateOptions(db)
	if err != nil {
		return err
	}
	if err := schema.Migrate(ctx, db.SQL, db.Dialect, in...); err != nil {
		return err
	}
	result := migrationJSON{
		Dialect: string(db.Dialect), Version: schema.Latest(), Latest: schema.Latest(), Changed: before != schema.Latest(),
	}
	return printMigration(printer, result)
}

// migrateOptions returns the options of package schema: the PostgreSQL schema and the application_id of the SQLite file.
func (opts *migrateOptions) migrateOptions(db *connect.Database) ([]schema.Option, error) {
	if opts.applicationID == "" {
		return db.In(), nil
	}
	if db.Dialect != schema.SQLite {
		return nil, exit.Usagef("leave --application-id away", "PostgreSQL has no application_id")
	}
	const hint = "give the number as PRAGMA application_id shows it, or in hexadecimal: 0x…"
	n, err := strconv.ParseInt(opts.applicationID, 0, 64)
	if err != nil || n < math.MinInt32 || n > math.MaxUint32 {
		return nil, exit.Usagef(hint, "--application-id: %q is not a number of 32 bits", opts.applicationID)
	}
	return append(db.In(), schema.ApplicationID(int32(uint32(n)))), nil
}

func newMigrateStatus(a *app, runF func(context.Context, *migrateOptions) error) *cobra.Command {
	opts := &migrateOptions{app: a}
	if runF == nil {
		runF = migrateStatusRun
	}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the version of the database",
		Example: `  outboxctl migrate status
  outboxctl migrate status --exit-status || outboxctl migrate up`,
		Args: needs(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	cmd.Flags().BoolVar(&opts.exitStatus, "exit-status", false, "exit with 3 if the database has another version than this program")
	opts.output.Add(cmd, migrationJSON{}, output.Table, output.JSON, output.NDJSON, output.TSV)
	return cmd
}

func migrateStatusRun(ctx context.Context, opts *migrateOptions) (err error) {
	printer, err := opts.output.Printer(opts.io)
	if err != nil {
		return err
	}
	db, err := connect.Open(ctx, opts.target(), connect.Refuse)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	version, err := schema.Version(ctx, db.SQL, db.In()...)
	if err != nil {
		return &exit.Error{Err: err, Code: exit.Database}
	}
	status := migrationJSON{Dialect: string(db.Dialect), Version: version, Latest: schema.Latest()}
	if err := printMigration(printer, status); err != nil {
		return err
	}
	// An edited migration is an error even if only the version is asked for.
	err = schema.Check(ctx, db.SQL, db.Dialect, db.In()...)
	if _, differs := errors.AsType[*schema.VersionError](err); differs && !opts.exitStatus {
		return nil
	}
	return err
}

func printMigration(printer *output.Printer, m migrationJSON) error {
	return printer.Object(m, "", func(r *output.Rows) {
		if !printer.Human() {
			r.Add(output.Text(m.Dialect), output.Int(m.Version), output.Int(m.Latest))
			return
		}
		sentence := fmt.Sprintf("The %s database is at version %d.", m.Dialect, m.Version)
		switch {
		case m.Changed:
			sentence = fmt.Sprintf("The %s database was brought to version %d.", m.Dialect, m.Version)
		case m.Version == 0:
			sentence = fmt.Sprintf("The %s database has no outbox tables; this program knows version %d.", m.Dialect, m.Latest)
		case m.Version != m.Latest:
			sentence = fmt.Sprintf("The %s database is at version %d; this program knows version %d.", m.Dialect, m.Version, m.Latest)
		}
		r.Add(output.Text(sentence))
	})
}

func newMigrateSQL(a *app, runF func(context.Context, *migrateSQLOptions) error) *cobra.Command {
	opts := &migrateSQLOptions{app: a}
	if runF == nil {
		runF = migrateSQLRun
	}
	cmd := &cobra.Command{
		Use:   "sql",
		Short: "Print the statements that build the tables",
		Long: `Print the statements that build the tables in an empty database, for people and other tools. With --from, print only
those that a database of that version still needs. No database is needed.

The output is a migration for goose, golang-migrate and psql as it is. It records itself, so that
"outboxctl migrate status" knows the version.`,
		Example: `  outboxctl migrate sql --dialect postgres | psql -1 shop
  outboxctl migrate sql --dialect postgres > migrations/00007_outbox.sql
  outboxctl migrate sql --dialect postgres --from 1 > migrations/00012_outbox.sql`,
		Args: needs(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	cmd.Flags().IntVar(&opts.from, "from", 0, "leave out the steps up to version `N`, which the database has")
	cmd.Flags().StringVar(&opts.dialect, "dialect", "", "`DIALECT`: sqlite or postgres (default that of --db)")
	if err := cmd.RegisterFlagCompletionFunc("dialect", cobra.FixedCompletions(
		[]string{string(schema.SQLite), string(schema.Postgres)}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag was added above
	}
	return cmd
}

func migrateSQLRun(_ context.Context, opts *migrateSQLOptions) error {
	dialect := schema.Dialect(opts.dialect)
	if dialect == "" {
		var err error
		if dialect, err = connect.Dialect(opts.databaseURL()); err != nil {
			return exit.Usagef("give --dialect sqlite or --dialect postgres", "the dialect is not known: %w", err)
		}
	}
	if dialect != schema.SQLite && dialect != schema.Postgres {
		return exit.Usagef("use sqlite or postgres", "--dialect: %q is not a dialect", opts.dialect)
	}
	name := opts.target().Schema
	if err := connect.CheckSchema(dialect, name); err != nil {
		return err
	}
	if opts.from < 0 || opts.from > schema.Latest() {
		return exit.Usagef("see \"outboxctl migrate status\"", "--from: version %d is not known, the last is %d", opts.from, schema.Latest())
	}
	in := []schema.Option{schema.From(opts.from)}
	if name != "" {
		in = append(in, schema.In(name))
	}
	_, err := io.WriteString(opts.io.Out, schema.SQL(dialect, in...))
	return err
}
