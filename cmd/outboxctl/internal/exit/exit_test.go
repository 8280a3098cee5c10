package exit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
	"testing"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
)

func TestExplain(t *testing.T) {
	wrap := func(err error) error { return fmt.Errorf("list: %w", err) }
	for _, tt := range []struct {
		name           string
		err            error
		sentence, hint string
		code           int
	}{
		{"nothing", nil, "", "", OK},
		{"anything", errors.New("it broke"), "it broke", "", Failed},
		{"usage", Usagef("do this", "not %s", "that"), "not that", "do this", Usage},
		{"wrapped usage", wrap(Usagef("do this", "not that")), "list: not that", "do this", Usage},
		{"silent", Silent(NoMatch), "", "", NoMatch},
		{"interrupted", wrap(context.Canceled), "interrupted", "", Interrupted},
		{"partial", &Error{Err: wrap(context.Canceled), Code: Interrupted, Hint: "h"}, "interrupted", "h", Interrupted},
		{"empty database", wrap(&schema.VersionError{Want: 3}), "the database has no outbox tables", "run `outboxctl migrate up`", Database},
		{
			"schema to be quoted for the shell", &schema.VersionError{Want: 3, Schema: "it's; ls"},
			`the schema "it's; ls" has no outbox tables`, `run ` + "`" + `outboxctl migrate up --schema 'it'\''s; ls'` + "`", Database,
		},
		{
			"old database", wrap(&schema.VersionError{Have: 2, Want: 3}),
			"the database is at outbox schema version 2, this program needs 3", "run `outboxctl migrate up`", Database,
		},
		{
			"new database", wrap(&schema.VersionError{Have: 4, Want: 3}),
			"the database is at outbox schema version 4, this program knows only 3", "use a newer outboxctl", Database,
		},
		{
			"not migrated", wrap(outbox.ErrNotMigrated),
			"the database has no outbox tables, or outdated ones", "run `outboxctl migrate up`", Database,
		},
		{"invalid", &outbox.InvalidError{Field: "To", Err: errors.New("is empty")}, "invalid To: is empty", "", Usage},
		{"network", wrap(&net.OpError{Op: "dial", Err: errors.New("refused")}), "list: dial: refused", "", Database},
		{"file", &fs.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}, "open x: no such file or directory", "", Failed},
		{
			"ambiguous", &store.AmbiguousError{Name: "01", Candidates: []outbox.ID{"a", "b"}},
			`"01" stands for more than one message: a, b`, "give more digits, or the whole id", Failed,
		},
		{
			"not found", wrap(store.ErrNotFound),
			"list: no such message", "`outboxctl list` shows the ids that there are", Failed,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sentence, hint, code := Explain(tt.err)
			if sentence != tt.sentence || hint != tt.hint || code != tt.code {
				t.Errorf("Explain = %q, %q, %d; want %q, %q, %d", sentence, hint, code, tt.sentence, tt.hint, tt.code)
			}
		})
	}
}
