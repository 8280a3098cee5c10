// Package output writes the results of outboxctl: a table for people; tab-separated values, JSON or ids for programs.
// docs/cli-json.md describes the JSON, which is a contract.
package output

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/iostreams"
)

// SchemaVersion is the version of the JSON. It changes if a field is removed or changes its meaning, not if one is added.
const SchemaVersion = 1

// Format is an output format.
type Format string

// The formats.
const (
	Table  Format = "table"  // aligned columns under a header
	JSON   Format = "json"   // one object
	NDJSON Format = "ndjson" // one object on each line
	TSV    Format = "tsv"    // values between tabs, without a header
	ID     Format = "id"     // ids only, as input for another command
)

// Flags holds the flags that choose the format. Call [Flags.Add] before use.
type Flags struct {
	// Piped is the format where the output is no terminal and none is chosen. Defaults to TSV.
	Piped Format

	format  string
	header  bool
	fields  []string
	known   []string
	allowed []Format
}

// Add adds the flags to a command. The sample is a struct whose JSON fields are those that --json accepts.
func (f *Flags) Add(cmd *cobra.Command, sample any, allowed ...Format) {
	f.allowed = allowed
	f.known = fieldsOf(reflect.TypeOf(sample))
	names := make([]string, len(allowed))
	for i, a := range allowed {
		names[i] = string(a)
	}
	cmd.Flags().StringVarP(&f.format, "output", "o", "", "output `FORMAT`: "+strings.Join(names, ", ")+
		" (default table on a terminal, else "+string(cmp.Or(f.Piped, TSV))+")")
	if slices.Contains(allowed, TSV) && cmd.Flags().Lookup("header") == nil { // enqueue has another --header
		cmd.Flags().BoolVar(&f.header, "header", false, "begin tab-separated values with the names of the columns")
	}
	cmd.Flags().StringSliceVar(&f.fields, "json", nil, "JSON with only these `FIELDS`, separated by commas")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		if missing, ok := errors.AsType[*pflag.ValueRequiredError](err); ok && missing.GetFlag().Name == "json" {
			return exit.Usagef("the fields are "+strings.Join(f.known, ", "), "--json needs fields, separated by commas")
		}
		return exit.Usagef("", "%w", err)
	})
	if err := cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag was added above
	}
}

// Fields returns the fields of --json.
func (f *Flags) Fields() []string { return f.fields }

// Printer checks the flags and returns a printer for the chosen format.
func (f *Flags) Printer(s *iostreams.Streams) (*Printer, error) {
	p := &Printer{out: s.Out, streams: s, fields: f.fields, header: f.header}
	for _, field := range f.fields {
		if !slices.Contains(f.known, field) {
			return nil, exit.Usagef("the fields are "+strings.Join(f.known, ", "), "there is no field %q", field)
		}
	}
	switch {
	case f.format == "" && len(f.fields) > 0:
		p.format = JSON
	case f.format == "" && s.OutTTY:
		p.format = Table
	case f.format == "":
		p.format = cmp.Or(f.Piped, TSV)
	default:
		p.format = Format(f.format)
	}
	if !slices.Contains(f.allowed, p.format) {
		return nil, exit.Usagef(fmt.Sprintf("use one of %v", f.allowed), "the output format %q is not one of this command", f.format)
	}
	if len(f.fields) > 0 && p.format != JSON && p.format != NDJSON {
		return nil, exit.Usagef("", "--json does not go with --output %s", p.format)
	}
	return p, nil
}

// fieldsOf lists the JSON names of a struct's fields in order of declaration.
func fieldsOf(t reflect.Type) []string {
	var names []string
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}
