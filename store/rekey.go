package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/keyring"
)

// The bounds of one batch of [Store.Rekey]: how many messages it looks at, and how many bytes of bodies are in memory.
const (
	rekeyBatch = 100
	rekeyBytes = 16 << 20
)

// RekeyOptions say how [Store.Rekey] runs.
type RekeyOptions struct {
	// Plain seals the bodies that are stored in clear as well. Defaults to leaving them.
	Plain bool
	// Progress, when set, is called after every batch with the number of messages that were looked at so far.
	Progress func(done int64)
}

// RekeyReport counts what [Store.Rekey] did, in messages.
type RekeyReport struct {
	// Changed are under the current key now. They include scrubbed messages with nothing sealed any more, which no longer name a
	// key.
	Changed int64
	// Missed were changed at the same time by another call, such as a scrubbing or another rekeying.
	Missed int64
	// Closed counts by the name of their key the messages that could not be opened. They stayed as they were. First is the first
	// error.
	Closed map[string]int64
	First  error
}

// Rekeyable counts the messages that [Store.Rekey] would work on, by the name of their key. Messages in clear have the empty
// name and count only if plain is true. It reads every message without its body.
func (s *Store) Rekeyable(ctx context.Context, keys *keyring.Ring, plain bool) (map[string]int64, error) {
	type row struct {
		KeyID string `db:"key_id"`
		N     int64
	}
	rows, err := collect[row](ctx, s.db, s.queries.get("count_rekeyable"), keys.Current(), flag(plain))
	if err != nil {
		return nil, s.failed(ctx, err, "count what has another key")
	}
	counts := make(map[string]int64, len(rows))
	for _, r := range rows {
		counts[r.KeyID] = r.N
	}
	return counts, nil
}

// flag returns a condition as every dialect takes it.
func flag(on bool) int {
	if on {
		return 1
	}
	return 0
}

// Rekey seals messages that are stored under another key again, under the current key of the ring: bodies, and sealed subjects
// and metadata. It works through the messages in the order of their ids, in short transactions, while dispatchers and the
// application go on. A message is replaced whole, and only if it has not changed since it was read. A message that cannot be
// opened is counted and stays as it was. Rekey may be interrupted and run again. On an error the report says what was done so
// far.
//
// Old bytes stay in free pages and dead rows until the database reuses them (VACUUM), and in backups.
func (s *Store) Rekey(ctx context.Context, keys *keyring.Ring, opts RekeyOptions) (RekeyReport, error) {
	r := rekey{Store: s, keys: keys, opts: opts}
	r.report.Closed = make(map[string]int64)
	if keys.Current() == "" {
		return r.report, errors.New("rekey: no keys given")
	}
	last := outbox.ID("00000000-0000-0000-0000-000000000000")
	for {
		page, err := collect[rekeyRow](ctx, s.db, s.queries.get("rekeyable"), keys.Current(), flag(opts.Plain), string(last), rekeyBatch)
		if err != nil {
			return r.report, s.failed(ctx, err, "rekey: look for messages")
		}
		if len(page) == 0 {
			return r.report, nil
		}
		for len(page) > 0 {
			n, bytes := 1, page[0].Size
			for n < len(page) && bytes+page[n].Size <= rekeyBytes {
				bytes += page[n].Size
				n++
			}
			if err := r.batch(ctx, page[:n]); err != nil {
				return r.report, s.failed(ctx, err, "rekey")
			}
			last = page[n-1].ID
			page = page[n:]
		}
	}
}

// rekeyRow is a message that has another key than the current one.
type rekeyRow struct {
	ID   outbox.ID
	Size int64
}

// rekey is one run.
type rekey struct {
	*Store
	keys   *keyring.Ring
	opts   RekeyOptions
	report RekeyReport
	seen   int64
	action string // the row of outbox_actions, empty before the first batch
}

// sealedRow is a [keyring.Row] as it is read.
type sealedRow struct {
	ID       string
	KeyID    string `db:"key_id"`
	Body     []byte
	Subject  string
	Metadata string
}

// batch reseals some messages. It works outside of the transaction. The guards of the transaction see whether a message has
// changed since it was read.
func (r *rekey) batch(ctx context.Context, page []rekeyRow) error {
	ids := make([]outbox.ID, len(page))
	for i, row := range page {
		ids[i] = row.ID
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	rows, err := collect[sealedRow](ctx, r.db, r.queries.get("sealed_rows"), string(list))
	if err != nil {
		return err
	}
	var changes [][]any
	for _, row := range rows {
		if row.KeyID == r.keys.Current() { // by another run, since the page was read
			r.report.Missed++
			continue
		}
		next, err := r.keys.Reseal(keyring.Row(row), r.opts.Plain)
		if err != nil {
			r.closed(row, err)
			continue
		}
		changes = append(changes, []any{
			row.ID, orNull(next.Body == nil, next.Body), next.Subject, orNull(next.Metadata == "", next.Metadata),
			orNull(next.KeyID == "", next.KeyID), row.KeyID, row.Body == nil,
		})
	}
	changed, err := r.write(ctx, changes)
	if err != nil {
		return err
	}
	r.report.Changed += changed
	r.report.Missed += int64(len(changes)) - changed
	r.seen += int64(len(page))
	if r.opts.Progress != nil {
		r.opts.Progress(r.seen)
	}
	return nil
}

// closed counts a message that could not be opened.
func (r *rekey) closed(row sealedRow, err error) {
	keyID := row.KeyID
	if e, ok := errors.AsType[*keyring.Error](err); ok && e.KeyID != "" {
		keyID = e.KeyID
	}
	r.report.Closed[keyID]++
	if r.report.First == nil {
		r.report.First = fmt.Errorf("message %s: %w", row.ID, err)
	}
}

func orNull(null bool, v any) any {
	if null {
		return nil
	}
	return v
}

// write stores resealed messages in one transaction and returns how many had not changed since they were read.
func (r *rekey) write(ctx context.Context, changes [][]any) (int64, error) {
	if len(changes) == 0 {
		return 0, nil
	}
	var (
		changed int64
		action  string
	)
	err := r.atomically(ctx, func(c conn) error {
		changed, action = 0, r.action
		for _, args := range changes {
			n, err := affected(ctx, c, r.queries.get("rekey"), args...)
			if err != nil {
				return err
			}
			changed += n
		}
		if changed == 0 {
			return nil
		}
		subject := struct {
			Key   string `json:"key"`
			Plain bool   `json:"plain,omitempty"`
		}{r.keys.Current(), r.opts.Plain}
		var err error
		action, err = r.note(ctx, c, note{row: r.action, verb: "rekey", subject: subject, before: r.report.Changed, changed: changed})
		return err
	})
	if err != nil {
		return 0, err
	}
	r.action = action
	return changed, nil
}
