package queue

import "time"

// FeedbackKind is what a provider reported of a message after it had accepted it.
type FeedbackKind string

// The kinds of feedback.
const (
	// FeedbackDelivered says that the recipient's server took the message.
	FeedbackDelivered FeedbackKind = "delivered"
	// FeedbackDelayed says that it did not yet, and that the provider goes on trying.
	FeedbackDelayed FeedbackKind = "delayed"
	// FeedbackBounced says that the message came back.
	FeedbackBounced FeedbackKind = "bounced"
	// FeedbackComplained says that the recipient called the message spam.
	FeedbackComplained FeedbackKind = "complained"
)

// Valid says whether k is one of the kinds above.
func (k FeedbackKind) Valid() bool {
	switch k {
	case FeedbackDelivered, FeedbackDelayed, FeedbackBounced, FeedbackComplained:
		return true
	default:
		return false
	}
}

// Feedback is what became of a message after the relay had accepted it. It comes from a provider's webhook, a bounce message
// (RFC 3464) or a complaint (RFC 5965). It is kept beside the delivery and does not change its state.
type Feedback struct {
	Kind FeedbackKind
	// ProviderID is the name that the provider gave the message when it accepted it. MessageID is the message's own, with or
	// without its brackets. One of them is enough. If both are given, ProviderID is looked for first.
	ProviderID, MessageID string
	// Recipient narrows the feedback to one recipient. An international domain may have either form. The case of ASCII letters
	// does not matter; before the @, PostgreSQL ignores the case of other letters, too. Empty means every recipient of the
	// message, or with a ProviderID those that were sent to together.
	Recipient string
	// At is when it happened. Defaults to now, by the clock of the database.
	At time.Time
	// Code and Enhanced are those of the answer that the provider got (RFC 5321 §4.2, RFC 3463), zero for none. Detail says it in
	// words.
	Code             int
	Enhanced, Detail string
	// EventID is the provider's name for this report. A report that arrives twice is recorded once. Defaults to the kind and
	// the time. A report without EventID and At is recorded each time that it arrives.
	EventID string
	// Suppress also puts the recipient on the suppression list if the feedback is [Feedback.Permanent], with Detail as the reason.
	// It needs a single recipient: a named one, or the only one of its message.
	Suppress bool
}

// Permanent says whether the recipient should get no more mail: after a complaint, and after a bounce unless its code or
// enhanced code says that it is temporary.
func (f *Feedback) Permanent() bool {
	switch f.Kind {
	case FeedbackComplained:
		return true
	case FeedbackBounced:
		return f.Code/100 != 4 && (f.Enhanced == "" || f.Enhanced[0] != '4')
	default:
		return false
	}
}

// FeedbackReport says what became of feedback.
type FeedbackReport struct {
	// Recorded counts the deliveries for which something was recorded, and Known those for which it had been before.
	Recorded, Known int
	// Suppressed counts the addresses that were put on the suppression list.
	Suppressed int
	// Unknown is the feedback for which there is no delivery: it is about other mail, or about purged deliveries.
	Unknown []Feedback
}
