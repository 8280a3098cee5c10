package outbox

import "context"

// CancelResult says which recipients a cancellation came in time for.
type CancelResult struct {
	// Found is true when the message is stored. A transaction that cannot be queried (see [InTx]) finds only a message of which
	// it cancelled something.
	Found bool
	// Cancelled counts the recipients that this call withdrew. They get no mail once the transaction commits.
	Cancelled int
	// TooLate counts the recipients that got the message or may get it: their deliveries are sending, uncertain or sent. It is
	// 0 if the transaction cannot be queried.
	TooLate int
	// States counts the deliveries by their state after the call. It is nil if the transaction cannot be queried.
	States map[State]int
}

// Cancel withdraws the deliveries of a message that are not on their way yet. They are withdrawn if and only if the caller's
// transaction commits. The result says how many recipients that concerns. An id that is not stored is no error.
//
// Once every delivery of a message is cancelled, its Key is free for another message.
//
// On PostgreSQL, Cancel waits for a delivery that another transaction is claiming, and then finds it too late.
//
// The error is an [InvalidError] for text that is no id, [ErrNotMigrated], or the driver's. Nothing was cancelled then.
func (o *Outbox) Cancel(ctx context.Context, tx Tx, id ID) (CancelResult, error) {
	if isNil(tx) {
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
	if n > 0 {
		if _, err := execute(ctx, tx, o.statements.freeKey, []any{string(canonical)}); err != nil {
			return CancelResult{}, o.explain("cancel "+string(canonical)+": free its key", err)
		}
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
