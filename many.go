package outbox

import (
	"cmp"
	"context"
	"fmt"
	"math/bits"
	"slices"
)

// Bounds of one INSERT of many rows. SQLite looks a parameter up among all before it, so that more than 32 rows (544
// parameters) cost more than they save; PostgreSQL gains little after that. Only powers of two are used, for a driver
// that keeps prepared statements keeps one for each number of rows.
const (
	rowsBits     = 5
	maxRows      = 1 << rowsBits
	maxChunkSize = 8 << 20
)

// EnqueueMany stores messages in the caller's transaction, many in a statement. The receipts are in the order of msgs.
// Of several messages with one Key the first is stored.
//
// Every message is checked and rendered before anything is written: an error about one names its index, counted from 0,
// wraps an [InvalidError] or what was said when an attachment was read, and leaves the transaction as it was. After any
// other error some messages may be stored in the transaction: roll it back. The rendered messages are in memory together,
// so the caller chooses how many.
func (o *Outbox) EnqueueMany(ctx context.Context, tx Tx, msgs []*Message) ([]Receipt, error) {
	if tx == nil {
		return nil, errNoTx
	}
	rows := make([]row, len(msgs))
	for i, msg := range msgs {
		d, err := o.draft(ctx, msg)
		if err != nil {
			return nil, fmt.Errorf("message %d: %w", i, err)
		}
		if err := o.seal(d); err != nil {
			return nil, fmt.Errorf("message %d: %w", i, err)
		}
		rows[i] = row{draft: d, index: i}
	}
	// Keys are locked in one order, whoever enqueues them: two transactions with the same keys wait, not deadlock.
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.draft.key, b.draft.key) })
	s := asScanner(tx)
	receipts := make([]Receipt, len(msgs))
	for len(rows) > 0 {
		n := chunk(rows)
		if s == nil {
			n = unambiguous(rows[:n])
		}
		if err := o.insertRows(ctx, tx, s, rows[:n], receipts); err != nil {
			return nil, err
		}
		rows = rows[n:]
	}
	return receipts, nil
}

// row is a draft with its place among the messages of the caller.
type row struct {
	draft *draft
	index int
}

// chunk says how many rows go into the next statement.
func chunk(rows []row) int {
	n, size := 0, 0
	for n < min(len(rows), maxRows) {
		size += len(rows[n].draft.body)
		if n > 0 && size > maxChunkSize {
			break
		}
		n++
	}
	if n == 0 {
		return 0
	}
	return 1 << (bits.Len(uint(n)) - 1)
}

// unambiguous cuts a chunk for a transaction that cannot be queried: nobody could be asked which of several keys was
// there before, so messages with a key go one by one. The rows are sorted, those without a key first.
func unambiguous(rows []row) int {
	keyed := slices.IndexFunc(rows, func(r row) bool { return r.draft.key != "" })
	if keyed < 0 {
		keyed = len(rows)
	}
	return max(1, chunk(rows[:keyed]))
}

// insertRows stores rows with one statement and fills in their receipts.
func (o *Outbox) insertRows(ctx context.Context, tx Tx, s scanner, rows []row, receipts []Receipt) error {
	args := make([]any, 0, len(rows)*columns)
	var keys []string
	for _, r := range rows {
		var err error
		if args, err = r.draft.args(args); err != nil {
			return err
		}
		if r.draft.key != "" {
			keys = append(keys, r.draft.key)
		}
	}
	n, err := execute(ctx, tx, o.statements.insert(len(rows)), args)
	if err != nil {
		return o.explain("enqueue", err)
	}
	var earlier map[string]Receipt
	if n < int64(len(rows)) {
		if earlier, err = o.lookUp(ctx, s, keys); err != nil {
			return o.explain("enqueue: look up the keys", err)
		}
	}
	stored := int64(0)
	for _, r := range rows {
		receipts[r.index] = r.draft.receipt()
		if earlier == nil || r.draft.key == "" || earlier[r.draft.key].ID == r.draft.id {
			stored++
			continue
		}
		receipts[r.index] = earlier[r.draft.key].duplicate()
	}
	if stored != n {
		return errSwallowed
	}
	return nil
}
