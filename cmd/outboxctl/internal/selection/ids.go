package selection

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
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
	// IDs are the named messages, Deliveries the named recipients. Named is true if something was to be named, even if standard
	// input held no id.
	IDs        []outbox.ID
	Deliveries []store.DeliveryID
	Named      bool
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

// Resolve finds the messages and recipients of the names. A complete id on standard input is not looked up. Every other name
// must stand for exactly one message. Duplicates are removed.
func (n Names) Resolve(ctx context.Context, f store.Filter, in io.Reader, finder Finder) (*Selection, error) {
	s := &Selection{Filter: f, Named: !n.None()}
	for _, name := range n.list {
		short, seq := Split(name)
		id, err := finder.Find(ctx, short)
		if err != nil {
			return nil, err
		}
		s.add(id, seq)
	}
	if n.FromInput {
		if err := s.read(ctx, in, finder); err != nil {
			return nil, err
		}
	}
	s.IDs, s.Deliveries = unique(s.IDs), unique(s.Deliveries)
	return s, nil
}

// add adds a recipient, or a message if seq is 0.
func (s *Selection) add(id outbox.ID, seq int) {
	if seq == 0 {
		s.IDs = append(s.IDs, id)
		return
	}
	s.Deliveries = append(s.Deliveries, store.DeliveryID{ID: id, Seq: seq})
}

// Split divides a name in the form ID/SEQ into the name of the message and the number of the recipient. The number is 0 if the
// name has none. A Message-ID may contain a slash: there the number counts only behind the closing bracket.
func Split(name string) (message string, seq int) {
	before, number, ok := cutLast(strings.TrimSpace(name), "/")
	if !ok || strings.Contains(before, "@") && !strings.HasSuffix(before, ">") {
		return name, 0
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || strings.Trim(number, "0123456789") != "" {
		return name, 0
	}
	return before, n
}

// cutLast is strings.Cut at the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
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
		name, seq := Split(fields[0])
		id, err := outbox.ParseID(name)
		if err != nil {
			if id, err = finder.Find(ctx, name); err != nil {
				return err
			}
		}
		s.add(id, seq)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read ids from standard input: %w", err)
	}
	return nil
}

// unique removes duplicates and keeps the order.
func unique[T comparable](list []T) []T {
	seen := make(map[T]bool, len(list))
	return slices.DeleteFunc(list, func(v T) bool {
		before := seen[v]
		seen[v] = true
		return before
	})
}

// Whole returns the selection as one filter. It returns false if something was to be named and nothing was. The selection is
// empty then, and the filter must not be used: without names it covers all messages.
func (s *Selection) Whole() (f store.Filter, ok bool) {
	f = s.Filter
	f.IDs, f.Deliveries = s.IDs, s.Deliveries
	return f, !s.Named || s.Size() > 0
}

// Size counts the messages and recipients that are named.
func (s *Selection) Size() int { return len(s.IDs) + len(s.Deliveries) }
