package outbox

import "github.com/outboxmail/outbox/queue"

// State is where a delivery stands. A message has one delivery for each recipient, and each moves on its own. The values are
// stored as they are here; a release may add values and never changes one.
type State string

// The states of a delivery. The first four are live. The others are terminal: a delivery leaves them only when an operator
// requeues it.
const (
	// StateQueued waits to be claimed: now, later, or again. People are shown "scheduled" before its time has come, and
	// "deferred" after an attempt.
	StateQueued State = "queued"
	// StateSending is leased to a dispatcher.
	StateSending State = "sending"
	// StateUncertain may or may not have been accepted: the connection was lost after the final dot may have left.
	StateUncertain State = "uncertain"
	// StateHeld waits for an operator to release it.
	StateHeld State = "held"
	// StateSent was accepted by the relay.
	StateSent State = "sent"
	// StateFailed was refused for good, or its attempts were used up.
	StateFailed State = "failed"
	// StateExpired reached its deadline before it could be sent.
	StateExpired State = "expired"
	// StateCancelled was withdrawn by the application or an operator.
	StateCancelled State = "cancelled"
	// StateSuppressed was not sent because its recipient is on the suppression list.
	StateSuppressed State = "suppressed"
)

// States lists every state in the order in which they are shown to people.
func States() []State {
	return []State{
		StateQueued, StateSending, StateUncertain, StateHeld,
		StateSent, StateFailed, StateExpired, StateCancelled, StateSuppressed,
	}
}

// Terminal reports whether a delivery stays in this state unless an operator requeues it.
func (s State) Terminal() bool {
	switch s {
	case StateSent, StateFailed, StateExpired, StateCancelled, StateSuppressed:
		return true
	default:
		return false
	}
}

// Valid reports whether s is one of [States].
func (s State) Valid() bool {
	switch s {
	case StateQueued, StateSending, StateUncertain, StateHeld:
		return true
	default:
		return s.Terminal()
	}
}

// Priority orders the deliveries of a route. The zero value means [Normal].
type Priority = queue.Priority

// The priorities. A higher one goes first but never stops a lower one.
const (
	// High is for mail that a person is waiting for, such as a sign-in code.
	High Priority = queue.High
	// Normal is the default.
	Normal Priority = queue.Normal
	// Bulk is for newsletters and digests.
	Bulk Priority = queue.Bulk
)

// UncertainPolicy says what happens to a delivery whose outcome cannot be known: the connection or the process was lost
// between the final dot and the recorded reply. The zero value means [Resend].
type UncertainPolicy = queue.UncertainPolicy

// The policies for an uncertain outcome.
const (
	// Resend sends again with the same Message-ID and bytes. At worst the recipient gets two copies.
	Resend UncertainPolicy = queue.Resend
	// Hold leaves the delivery uncertain until an operator resolves it. At worst the recipient gets none before that.
	Hold UncertainPolicy = queue.Hold
)
