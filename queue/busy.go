package queue

import "fmt"

// BusyError says that a call passed over rows which another transaction has locked. The call took full effect for all others.
// What is busy is not lost: its lease may still hold. Repeat the call for it.
type BusyError struct {
	// Refs are the deliveries that a fence or a settlement passed over.
	Refs []Ref
	// Tokens are the claims that a renewal passed over.
	Tokens []string
}

// Error counts what is locked.
func (e *BusyError) Error() string {
	if len(e.Tokens) > 0 {
		return fmt.Sprintf("%d claims are locked by another transaction", len(e.Tokens))
	}
	return fmt.Sprintf("%d deliveries are locked by another transaction", len(e.Refs))
}
