package selection

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/internal/textfile"
	"github.com/outboxmail/outbox/store"
)

// Finder finds the message that a name stands for, such as the beginning of an id.
type Finder interface {
	Find(ctx context.Context, name string) (outbox.ID, error)
}

// Selection holds the filter and the messages that a command works on.
type Selection struct {
	// Filter holds everything but the ids.
	Filter store.Filter
	// IDs are the named messages. Named is true if messages were to be named, even if standard input held no id.
	IDs   []outbox.ID
	Named bool
}

// Names holds the names of messages on the command line, before they are resolved.
type Names struct {
	list []string
	// FromInput is true if the ids come from standard input, which then cannot answer a question.
	FromInput bool
}

// Names joins the arguments and the values of --id. The only value "-" stands for ids on standard input. Other values
// beside "-" are an error.
func (f *Flags) Names(args []string) (Names, error) {
	n := Names{list: slices.Concat(args, f.ids)}
	if slices.Contains(n.list, "-") {
		if len(n.list) > 1 {
			return n, exit.Usagef("", "\"-\" reads the ids from standard input and does not go with other ids")
		}
		n = Names{FromInput: true}
	}
	return n, nil
}

// None reports whether no message is named.
func (n Names) None() bool { return !n.FromInput && len(n.list) == 0 }

// Resolve finds the messages of the names. A complete id on standard input is not looked up. Every other name must stand
// for exactly one message. Duplicates are removed.
func (n Names) Resolve(ctx context.Context, f store.Filter, in io.Reader, finder Finder) (*Selection, error) {
	s := &Selection{Filter: f, Named: !n.None()}
	for _, name := range n.list {
		id, err := finder.Find(ctx, name)
		if err != nil {
			return nil, err
		}
		s.IDs = append(s.IDs, id)
	}
	if n.FromInput {
		if err := s.read(ctx, in, finder); err != nil {
			return nil, err
		}
	}
	s.IDs = unique(s.IDs)
	return s, nil
}

// read reads ids from the first word of every line. The other columns of a list are ignored.
func (s *Selection) read(ctx context.Context, in io.Reader, finder Finder) error {
	const longestLine = 1 << 20
	lines := bufio.NewScanner(textfile.NewReader(in))
	lines.Buffer(nil, longestLine)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		id, err := outbox.ParseID(fields[0])
		if err != nil {
			if id, err = finder.Find(ctx, fields[0]); err != nil {
				return err
			}
		}
		s.IDs = append(s.IDs, id)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read ids from standard input: %w", err)
	}
	return nil
}

// unique removes duplicates and keeps the order.
func unique(ids []outbox.ID) []outbox.ID {
	seen := make(map[outbox.ID]bool, len(ids))
	return slices.DeleteFunc(ids, func(id outbox.ID) bool {
		before := seen[id]
		seen[id] = true
		return before
	})
}

// Whole returns the selection as one filter. It returns false if messages were to be named and none was. The selection is
// empty then, and the filter must not be used: without ids it covers all messages.
func (s *Selection) Whole() (f store.Filter, ok bool) {
	f = s.Filter
	f.IDs = s.IDs
	return f, !s.Named || len(s.IDs) > 0
}
