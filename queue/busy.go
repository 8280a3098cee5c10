package queue

import "fmt"

// BusyError says that a call passed over deliveries whose rows another transaction has locked. The call took full effect for all
// other deliveries. A busy delivery is not lost: its lease may still hold. Repeat the call for it.
type BusyError struct {
	// Refs are the deliveries that were passed over.
	Refs []Ref
}

// Error counts the deliveries.
func (e *BusyError) Error() string {
	return fmt.Sprintf("%d deliveries are locked by another transaction", len(e.Refs))
}
