package command

import (
	"context"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
	"github.com/outboxmail/outbox/schema"
)

type versionOptions struct {
	*app
	output output.Flags
	build  func() (*debug.BuildInfo, bool)
}

// versionJSON is the JSON of `outboxctl version`.
type versionJSON struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Schema   int    `json:"schema"`
}

func newVersion(a *app, runF func(context.Context, *versionOptions) error) *cobra.Command {
	opts := &versionOptions{app: a, build: debug.ReadBuildInfo}
	if runF == nil {
		runF = versionRun
	}
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version of outboxctl and of its schema",
		Example: "  outboxctl version -o json",
		Args:    needs(0, 0, ""),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	opts.output.Add(cmd, versionJSON{}, output.Table, output.JSON, output.NDJSON, output.TSV)
	return cmd
}

func versionRun(_ context.Context, opts *versionOptions) error {
	printer, err := opts.output.Printer(opts.io)
	if err != nil {
		return err
	}
	v := versionJSON{Version: "unknown", Schema: schema.Latest()}
	if info, ok := opts.build(); ok {
		v.Version, v.Go = info.Main.Version, info.GoVersion
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Revision = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	return printer.Object(v, "", func(r *output.Rows) {
		r.Pair("outboxctl", output.Text(v.Version))
		r.Pair("revision", output.Text(v.Revision))
		r.Pair("go", output.Text(v.Go))
		r.Pair("schema", output.Int(v.Schema))
	})
}
