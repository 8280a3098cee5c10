package outbox

import "context"

// CancelResult says what a cancellation came in time for.
type CancelResult struct {
	// Found is true when the message is stored. Where the transaction cannot be queried (see [InTx]), it is known only
	// of a message of which something was cancelled.
	Found bool
	// Cancelled counts the recipients that were withdrawn by this call: they get no mail once the transaction commits.
	Cancelled int
	// TooLate counts the recipients that got the message, or may get it: their deliveries are being sent, uncertain or
	// sent. It is 0 where the transaction cannot be queried.
	TooLate int
	// States counts the deliveries by where they stand after the call. It is nil where the transaction cannot be queried.
	States map[State]int
}

// Cancel withdraws the deliveries of a message that are not on their way yet, in the caller's transaction: they are
// withdrawn if and only if it commits. The result says of how many recipients that is true. An id that is not stored is
// not an error.
//
// On PostgreSQL, a delivery that another transaction is claiming at this moment is waited for and then found too late.
// The error is an [InvalidError] for an id that is none, [ErrNotMigrated], or what the driver said; then nothing was
// cancelled.
func (o *Outbox) Cancel(ctx context.Context, tx Tx, id ID) (CancelResult, error) {
	if tx == nil {
		return CancelResult{}, errNoTx
	}
	canonical, err := ParseID(string(id))
	if err != nil {
		return CancelResult{}, &InvalidError{Field: "ID", Err: err}
	}
	n, err := execute(ctx, tx, o.statements.cancel, []any{string(canonical)})
	if err != nil {
		return CancelResult{}, o.explain("cancel "+string(canonical), err)
	}
	r := CancelResult{Found: n > 0, Cancelled: int(n)}
	s := asScanner(tx)
	if s == nil {
		return r, nil
	}
	r.States = make(map[State]int)
	err = s.scan(ctx, func(scan func(...any) error) error {
		var state string
		var count int64
		if err := scan(&state, &count); err != nil {
			return err
		}
		r.States[State(state)] = int(count)
		return nil
	}, o.statements.count, string(canonical))
	if err != nil {
		return CancelResult{}, o.explain("cancel "+string(canonical), err)
	}
	r.Found = len(r.States) > 0
	r.TooLate = r.States[StateSending] + r.States[StateUncertain] + r.States[StateSent]
	return r, nil
}
