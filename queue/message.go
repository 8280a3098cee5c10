package queue

// ID names one message: a UUID in its canonical text form. Package outbox makes UUIDv7 (RFC 9562 §5.7), which sort by the
// time at which they were made.
type ID string

// String returns the canonical text form.
func (id ID) String() string { return string(id) }

// Priority orders the deliveries of a route. The zero value means [Normal].
type Priority string

// The priorities. A higher one goes first but never stops a lower one.
const (
	// High is for mail that a person is waiting for, such as a sign-in code.
	High Priority = "high"
	// Normal is the default.
	Normal Priority = "normal"
	// Bulk is for newsletters and digests.
	Bulk Priority = "bulk"
)

// Priorities lists the priorities, the most urgent first.
func Priorities() []Priority { return []Priority{High, Normal, Bulk} }

// UncertainPolicy says what happens to a delivery whose outcome cannot be known: the connection or the process was lost
// between the final dot and the recorded reply. The zero value means [Resend].
type UncertainPolicy string

// The policies for an uncertain outcome.
const (
	// Resend sends again with the same Message-ID and bytes. At worst the recipient gets two copies.
	Resend UncertainPolicy = "resend"
	// Hold leaves the delivery uncertain until an operator resolves it. At worst the recipient gets none before that.
	Hold UncertainPolicy = "hold"
)
