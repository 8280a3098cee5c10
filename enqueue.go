package outbox

import (
	"cmp"
	"context"
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// Bounds of one INSERT of many rows. SQLite compares each parameter with all before it, so more than 32 rows (544 parameters)
// cost more than they save. PostgreSQL gains little after that. Only powers of two are used, because some drivers keep a
// prepared statement for each number of rows.
const (
	rowsBits     = 5
	maxRows      = 1 << rowsBits
	maxChunkSize = 8 << 20
)

// Enqueue stores a message in the caller's transaction. It will be delivered if and only if the transaction commits. Enqueue
// runs one statement, and a second one only if Key was used before. Store.Enqueue of package store needs no transaction.
//
// The error is an [InvalidError] for a message that can never be sent, or the wrapped error of an attachment that could not be
// read. Nothing was written then, and the transaction can go on. Every other error is [ErrNotMigrated] or the driver's. Nothing
// was written then either, but on PostgreSQL the transaction has failed and can only be rolled back.
func (o *Outbox) Enqueue(ctx context.Context, tx Tx, msg *Message) (Receipt, error) {
	if isNil(tx) {
		return Receipt{}, errNoTx
	}
	d, err := o.sealed(ctx, msg)
	if err != nil {
		return Receipt{}, err
	}
	var receipt [1]Receipt
	if err := o.insertRows(ctx, tx, asScanner(tx), []row{{draft: d}}, receipt[:]); err != nil {
		return Receipt{}, err
	}
	return receipt[0], nil
}

// EnqueueMany stores messages in the caller's transaction, up to 32 in a statement. The receipts are in the order of msgs. Of
// several messages with one Key the first is stored.
//
// Every message is checked and rendered before anything is written. An error about one names its index, counted from 0, and
// wraps an [InvalidError] or the error of its attachment; the transaction is as it was. After any other error some messages may
// be stored in the transaction: roll it back. The rendered messages are in memory together.
func (o *Outbox) EnqueueMany(ctx context.Context, tx Tx, msgs []*Message) ([]Receipt, error) {
	if isNil(tx) {
		return nil, errNoTx
	}
	rows := make([]row, len(msgs))
	for i, msg := range msgs {
		d, err := o.sealed(ctx, msg)
		if err != nil {
			return nil, fmt.Errorf("message %d: %w", i, err)
		}
		rows[i] = row{draft: d, index: i}
	}
	// Keys are locked in one order, so two transactions with the same keys wait and do not deadlock.
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

// chunk returns how many rows go into the next statement.
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

// unambiguous cuts a chunk for a transaction that cannot be queried. It could not tell which of several keys was there before,
// so messages with a key go one by one. The rows are sorted, those without a key first.
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
	n, err := execute(ctx, tx, o.statements.insert(len(rows), len(keys) > 0), args)
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

// lookUp returns the receipts of the messages that the transaction finds under the keys. A nil scanner finds none.
func (o *Outbox) lookUp(ctx context.Context, s scanner, keys []string) (map[string]Receipt, error) {
	found := make(map[string]Receipt, len(keys))
	if s == nil || len(keys) == 0 {
		return found, nil
	}
	var b strings.Builder
	b.WriteString(o.statements.keys)
	placeholders(&b, 0, len(keys))
	args := make([]any, len(keys))
	for i, key := range keys {
		args[i] = key
	}
	err := s.scan(ctx, func(scan func(...any) error) error {
		var key, id, messageID, state string
		if err := scan(&key, &id, &messageID, &state); err != nil {
			return err
		}
		found[key] = Receipt{ID: ID(id), MessageID: messageID, State: State(state)}
		return nil
	}, b.String(), args...)
	return found, err
}

// receipt makes the receipt of a stored row.
func (d *draft) receipt() Receipt { return Receipt{ID: d.id, MessageID: d.messageID} }

// execute runs a statement and returns how many rows it affected.
func execute(ctx context.Context, tx Tx, text string, args []any) (int64, error) {
	result, err := tx.ExecContext(ctx, text, args...)
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	if err != nil {
		return 0, fmt.Errorf("ask for the number of rows: %w", err)
	}
	return n, nil
}

// duplicate makes the receipt of a message that was stored before.
func (r Receipt) duplicate() Receipt {
	r.Duplicate = true
	return r
}
