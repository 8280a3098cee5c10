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

// Finder resolves the name of a message.
type Finder interface {
	Find(ctx context.Context, name string) (outbox.ID, error)
}

// Selection is what a command works on.
type Selection struct {
	// Filter holds everything but the ids.
	Filter store.Filter
	// IDs are the messages that were named, Named is true when any were to be, even if standard input then held none.
	IDs   []outbox.ID
	Named bool
}

// Names are the messages that were named on the command line, before they are looked up.
type Names struct {
	list []string
	// FromInput says that the ids come from standard input, so that it cannot also answer a question.
	FromInput bool
}

// Names takes the arguments and the values of --id together. The argument "-" alone stands for ids on standard input.
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

// None says that no message was named.
func (n Names) None() bool { return !n.FromInput && len(n.list) == 0 }

// Resolve looks the names up. An id that is complete on standard input is taken as it is; everything else must stand for
// exactly one message.
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

// read takes the first word of every line, so that a list with more columns than the id will do.
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

// unique drops ids that were named before and keeps the order.
func unique(ids []outbox.ID) []outbox.ID {
	seen := make(map[outbox.ID]bool, len(ids))
	return slices.DeleteFunc(ids, func(id outbox.ID) bool {
		before := seen[id]
		seen[id] = true
		return before
	})
}

// Whole returns the selection as one filter. It is false when messages were to be named and none was: then nothing is selected.
func (s *Selection) Whole() (f store.Filter, ok bool) {
	f = s.Filter
	f.IDs = s.IDs
	return f, !s.Named || len(s.IDs) > 0
}
