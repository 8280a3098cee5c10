package selection

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
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
	lines := bufio.NewScanner(in)
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

// idBatch is the number of ids in one filter: a statement has a limited number of parameters.
const idBatch = 1000

// Filters returns the selection as filters, one after the other. The caller says after each how many deliveries it came
// to, because the limit holds for all of them together.
func (s *Selection) Filters() iter.Seq2[store.Filter, func(n int64)] {
	return func(yield func(store.Filter, func(int64)) bool) {
		if !s.Named {
			yield(s.Filter, func(int64) {})
			return
		}
		left := int64(s.Filter.Limit)
		for ids := range slices.Chunk(s.IDs, idBatch) {
			f := s.Filter
			f.IDs, f.Limit = ids, int(left)
			count := func(n int64) {
				if s.Filter.Limit > 0 {
					left -= n
				}
			}
			if !yield(f, count) || s.Filter.Limit > 0 && left <= 0 {
				return
			}
		}
	}
}
