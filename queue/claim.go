package queue

import "time"

// Ref names one claim of one delivery. Every claim has a new token, and every write names it: once the lease has gone to
// somebody else, the old token changes nothing.
type Ref struct {
	// ID is the message. Seq, counted from 1, is the recipient's place in it.
	ID  ID
	Seq int
	// Token is the fencing token of the claim. The deliveries of one claim may share it.
	Token string
}

// FencedRef is a delivery that passes the point of no return: from then on the relay may have it.
type FencedRef struct {
	Ref Ref
	// Relay is the configured name of the relay that gets the message next. If its answer is lost, the doubt lies there.
	// Empty means unknown.
	Relay string
}

// ClaimRequest asks a store for deliveries that are due.
type ClaimRequest struct {
	// Owner names the dispatcher that will hold the leases.
	Owner string
	// Routes are those that the dispatcher can serve. None means every route.
	Routes []string
	// Limit is the largest number of deliveries to claim. The other due recipients of a claimed message come along, even past
	// the limit: one SMTP transaction serves them all.
	Limit int
	// InlineBytes is the largest body in bytes that the claim returns at once. A larger one is fetched when its turn comes.
	// Zero means that every body is fetched separately.
	InlineBytes int64
	// Lease is how long the claim holds without being renewed, by the clock of the database.
	Lease time.Duration
	// Relay names the relay that will be sent to. Nothing is claimed while it is paused. See also Fenced.
	Relay string
	// Rate bounds the claim. In the same transaction the claim draws from the allowance that all dispatchers of the database
	// share under the name of the relay. It takes no more than the allowance grants, with one exception: a message with more
	// recipients than that is claimed whole, and the allowance owes the rest.
	Rate Rate
	// Fenced promises that every delivery is fenced (see [FencedRef]) before it is sent. What lapses without a fence was then not
	// sent. If it is false, only messages with [Hold] are fenced; any other that lapses is in doubt with Relay.
	//
	// With the promise, PostgreSQL does not wait until the claim is on its disk or its standby, because the fence waits for both.
	// If the server breaks down in between, the whole claim is undone: nothing was sent, and the allowance has what it had.
	Fenced bool
	// Expect is where the caller expects something new to be due. Its route must be one of Routes; an empty route means no
	// expectation. PostgreSQL looks there first, and nowhere else if it finds something. More urgent messages on other routes
	// then wait for the next claim. SQLite and claims with a Rate ignore Expect.
	Expect Due
}

// Claimed is one message with those of its deliveries that one claim took.
type Claimed struct {
	ID             ID
	MessageID      string
	IdempotencyKey string // empty for none
	Route          string
	Priority       Priority
	Sender         string // envelope sender, empty for the null return path
	Subject        string
	Size           int64 // bytes of the rendered message
	OnUncertain    UncertainPolicy
	Tags           []string
	Metadata       map[string]string
	TraceParent    string        // W3C traceparent of the enqueuing request, empty for none
	Age            time.Duration // since it was first due, by the clock of the database
	ExpiresIn      time.Duration // until its deadline, by the clock of the database; zero means that it has none
	// Body is the rendered message. It is nil when the message is larger than ClaimRequest.InlineBytes.
	Body []byte
	// BodyKeyID names the key that encrypted the body, empty for none; see package keyring.
	BodyKeyID string
	// Token fences every write to Deliveries.
	Token      string
	Deliveries []ClaimedDelivery
}

// Ref returns the reference to the i-th claimed delivery, counted from 0.
func (c *Claimed) Ref(i int) Ref {
	return Ref{ID: c.ID, Seq: c.Deliveries[i].Seq, Token: c.Token}
}

// ClaimedDelivery is one recipient of a [Claimed] message.
type ClaimedDelivery struct {
	Seq       int
	Recipient string
	// Attempt numbers this attempt from 1. An attempt that is not counted gives its number back.
	Attempt int
	// DeferredFor is how long the delivery has been waiting through an outage or throttling, zero when it has not.
	DeferredFor time.Duration
	// Class and Relay are those of the last outcome, empty at first.
	Class, Relay string
}

// Due says when the next delivery of a route and priority is due. It wakes a dispatcher.
type Due struct {
	Route    string
	Priority Priority
	// In is the time until the next delivery is due, by the clock of the database. Zero or less means now.
	In time.Duration
	// Paused is true while an operator holds the route back.
	Paused bool
}

// ReapReport counts what a reaping found.
type ReapReport struct {
	// Requeued lapsed before their final dot could leave: they are queued again.
	Requeued int
	// Uncertain lapsed after that, or without the promise of a fence.
	Uncertain int
	// Held lapsed five times in a row, without an outcome in between. An operator has to look at them.
	Held int
	// Resent are the uncertain deliveries that their message's policy queued again.
	Resent int
	// Expired passed their deadline while they waited.
	Expired int
}
