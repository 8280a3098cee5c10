package store

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/letter"
)

// Suppression is an address that gets no mail: a claimed delivery to it becomes suppressed instead of being sent.
type Suppression struct {
	// Address is the recipient. An international domain may have either form and is stored in ASCII. The address is stored in
	// lower case. SQLite ignores only the case of ASCII before the @.
	Address string
	// Reason is recorded with every suppressed delivery. Source is the origin of the entry, such as "bounce" or "complaint".
	// Defaults to "operator".
	Reason, Source string
	// MessageID is the message that led to the entry, empty for none.
	MessageID outbox.ID
	// CreatedAt is when the address was first put on the list, by the clock of the database. Suppress ignores it.
	CreatedAt time.Time
}

// suppressBatch is how many addresses share a transaction.
const suppressBatch = 500

// Suppress puts addresses on the suppression list and returns how many it wrote. An address that is there already keeps its
// time and gets the new reason. It works in batches: on an error the entries written so far are kept. An entry that is no
// address is refused before anything is written.
func (s *Store) Suppress(ctx context.Context, list ...Suppression) (int64, error) {
	for i, e := range list {
		if err := checkAddress(e.Address); err != nil {
			return 0, fmt.Errorf("suppress: entry %d: %w", i+1, err)
		}
	}
	var subject Filter
	if len(list) == 1 {
		subject.To = canonicalAddress(list[0].Address)
	}
	return s.eachAddress(ctx, "suppress", subject, len(list), func(c conn, i int) (int64, error) {
		e := list[i]
		source := clean(e.Source)
		if source == "" {
			source = "operator"
		}
		var message any
		if e.MessageID != "" {
			message = string(e.MessageID)
		}
		return affected(ctx, c, s.queries.get("suppress"), canonicalAddress(e.Address), clean(e.Reason), source, message)
	})
}

// Unsuppress takes addresses off the suppression list and returns how many were on it. Suppressed deliveries stay suppressed
// until they are requeued.
func (s *Store) Unsuppress(ctx context.Context, addresses ...string) (int64, error) {
	for _, address := range addresses {
		if err := checkAddress(address); err != nil {
			return 0, fmt.Errorf("unsuppress: %w", err)
		}
	}
	var subject Filter
	if len(addresses) == 1 {
		subject.To = canonicalAddress(addresses[0])
	}
	return s.eachAddress(ctx, "unsuppress", subject, len(addresses), func(c conn, i int) (int64, error) {
		return affected(ctx, c, s.queries.get("unsuppress"), canonicalAddress(addresses[i]))
	})
}

// checkAddress refuses text that cannot be a recipient.
func checkAddress(address string) error {
	local, domain, ok := cutLast(address, "@")
	quoted := strings.HasPrefix(local, `"`) // then it may hold almost anything (RFC 5321 §4.1.2)
	if !ok || local == "" || domain == "" || strings.ContainsAny(address, "\t\r\n") || address != clean(address) ||
		!quoted && strings.ContainsAny(address, " <>") {
		return fmt.Errorf("%q is not an address", address)
	}
	return nil
}

// canonicalAddress returns an address in the form that deliveries have. Text that is no address stays as it is.
func canonicalAddress(address string) string {
	if m, err := letter.ParseMailbox(address); err == nil {
		return m.Addr
	}
	return address
}

// cutLast is strings.Cut at the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// eachAddress changes n addresses, a batch in each transaction, and records one action.
func (s *Store) eachAddress(
	ctx context.Context, verb string, subject Filter, n int, change func(c conn, i int) (int64, error),
) (int64, error) {
	var (
		done   int64
		action string
	)
	for first := 0; first < n; first += suppressBatch {
		var (
			changed int64
			row     string
		)
		err := s.atomically(ctx, func(c conn) error {
			changed, row = 0, action
			for i := first; i < min(first+suppressBatch, n); i++ {
				m, err := change(c, i)
				if err != nil {
					return err
				}
				changed += m
			}
			if changed == 0 {
				return nil
			}
			var err error
			row, err = s.note(ctx, c, note{row: action, verb: verb, subject: subject, before: done, changed: changed})
			return err
		})
		if err != nil {
			return done, s.failed(ctx, err, "%s", verb)
		}
		done += changed
		action = row
	}
	return done, nil
}

// suppressionRow is a [Suppression] as it is read.
type suppressionRow struct {
	Address, Reason, Source string
	MessageID               outbox.ID `db:"message_id"`
	CreatedAt               timestamp `db:"created_at"`
}

func (r suppressionRow) suppression() Suppression {
	return Suppression{Address: r.Address, Reason: r.Reason, Source: r.Source, MessageID: r.MessageID, CreatedAt: r.CreatedAt.Time}
}

// Suppressions streams the suppression list in the order of the addresses, a page at a time. An error ends the sequence.
func (s *Store) Suppressions(ctx context.Context) iter.Seq2[Suppression, error] {
	return func(yield func(Suppression, error) bool) {
		for last := ""; ; {
			page, err := collect[suppressionRow](ctx, s.db, s.queries.get("suppressions"), last, listPage)
			if err != nil {
				yield(Suppression{}, s.failed(ctx, err, "list the suppressions"))
				return
			}
			for _, r := range page {
				if !yield(r.suppression(), nil) {
					return
				}
			}
			if len(page) < listPage {
				return
			}
			last = page[len(page)-1].Address
		}
	}
}

// Suppressed returns the entry of an address, and whether there is one.
func (s *Store) Suppressed(ctx context.Context, address string) (Suppression, bool, error) {
	if err := checkAddress(address); err != nil {
		return Suppression{}, false, fmt.Errorf("look up a suppression: %w", err)
	}
	rows, err := collect[suppressionRow](ctx, s.db, s.queries.get("suppression"), canonicalAddress(address))
	if err != nil {
		return Suppression{}, false, s.failed(ctx, err, "look up a suppression")
	}
	if len(rows) == 0 {
		return Suppression{}, false, nil
	}
	return rows[0].suppression(), true, nil
}
