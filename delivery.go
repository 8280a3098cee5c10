package outbox

import (
	"errors"
	"time"
)

// ErrNoBody says that a message is stored without its body, because that was scrubbed: it cannot be sent any more.
var ErrNoBody = errors.New("the body of the message was scrubbed")

// The values in this file travel between a store, which keeps deliveries, and a dispatcher, which sends them.
// An application that enqueues needs none of them.

// Ref names one claim of one delivery. Its token is new at every claim and fences every write: a holder whose lease
// was given to somebody else changes nothing.
type Ref struct {
	// ID is the message and Seq, counted from 1, the recipient's place in it.
	ID  ID
	Seq int
	// Token is the fencing token of the claim.
	Token string
}

// Staging says that a delivery is about to pass the point of no return.
type Staging struct {
	Ref Ref
	// Relay is the configured name of the relay that is about to get the message. Should its answer be lost, this is where the
	// doubt lies. Empty means that it is not known.
	Relay string
}

// ClaimRequest asks a store for deliveries that are due.
type ClaimRequest struct {
	// Owner names the dispatcher that will hold the leases.
	Owner string
	// Routes are those that the dispatcher can serve. None means every route.
	Routes []string
	// Limit is the largest number of deliveries to claim. The other recipients of a message that is claimed come along,
	// so that one SMTP transaction serves them, even where that passes the limit.
	Limit int
	// MaxBytes bounds the summed size of the claimed messages; at least one is claimed. Zero means no bound.
	MaxBytes int64
	// InlineBytes is the largest body that the claim returns at once; a larger one is fetched when its turn comes.
	// Zero means that every body is fetched separately.
	InlineBytes int64
	// Lease is how long the claim holds without being renewed, by the clock of the database.
	Lease time.Duration
	// Relay names the relay that will be sent to; while it is paused nothing is claimed. Rate bounds it. The claim draws from the
	// allowance that all dispatchers of the database share under that name, in the same transaction: what it does not grant is
	// not claimed. A message with more recipients than the allowance has is claimed all the same, and the allowance owes.
	Relay string
	Rate  Rate
	// Staged promises that the stage of every delivery is recorded before it is sent. PostgreSQL then does not wait until
	// the claim is on its disk or its standby: the record of the stage, which it waits for, comes behind it and brings it along.
	// When the server breaks down before that, everything that the claim did is undone: the deliveries are queued, and were not
	// sent, recipients that it suppressed are so at the next claim, and the allowance has what it had.
	Staged bool
	// Expect, where it names a route, is where the caller thinks that something has just become due. PostgreSQL looks there
	// first, and no further when there is something: that spares the question what else is due. What waits elsewhere, though it be
	// more urgent, is for the next claim. The route must be one of Routes. SQLite, where a claim locks the file, and a claim with a
	// Rate, which locks the allowance, look first.
	Expect Due
}

// Claimed is one message with those of its deliveries that one claim took.
type Claimed struct {
	ID          ID
	MessageID   string
	Key         string // idempotency key, empty for none
	Route       string
	Priority    Priority
	Sender      string // envelope sender; empty for the null return path
	Subject     string
	Size        int64 // bytes of the rendered message
	OnUncertain UncertainPolicy
	Tags        []string
	Metadata    map[string]string
	TraceParent string        // W3C traceparent of the enqueuing request, empty for none
	Age         time.Duration // since it was first due, by the clock of the database
	ExpiresIn   time.Duration // until its deadline by the clock of the database; zero means that it has none
	// Body is the rendered message, or nil when it is larger than ClaimRequest.InlineBytes.
	Body []byte
	// KeyID names the key that the body is sealed with, empty for none; see [KeyRing].
	KeyID string
	// Token fences every write to Deliveries.
	Token      string
	Deliveries []ClaimedDelivery
}

// Ref returns the reference to the i-th claimed delivery.
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

// Verb is what a settlement does to a delivery.
type Verb string

// The verbs that end a claim.
const (
	// VerbSent records that the relay accepted the message: sending → sent.
	VerbSent Verb = "sent"
	// VerbDefer puts the delivery back for later: sending → queued, due after Settlement.Delay.
	VerbDefer Verb = "defer"
	// VerbFail gives the delivery up: sending → failed.
	VerbFail Verb = "fail"
	// VerbRecycle hands the delivery back at once and uncounted: sending → queued, due now. It is for deliveries whose
	// turn did not come and for sessions that were used up.
	VerbRecycle Verb = "recycle"
	// VerbUncertain records that the relay may or may not have accepted the message: sending → uncertain. The message's
	// policy then says whether it is sent again after Settlement.Delay.
	VerbUncertain Verb = "uncertain"
	// VerbExpire records that the deadline passed: sending → expired.
	VerbExpire Verb = "expire"
	// VerbHold sets the delivery aside for an operator: sending → held.
	VerbHold Verb = "hold"
)

// Settlement is the outcome of one attempt, written under the fencing token of its claim.
type Settlement struct {
	Ref  Ref
	Verb Verb
	// Delay is the time until the next attempt, by the clock of the database.
	Delay time.Duration
	// Uncounted gives the number of the attempt back: the message was not to blame.
	Uncounted bool
	// Suppress also puts the recipient on the suppression list, in the same transaction: what is claimed for it from then on is
	// not sent. The reason is Evidence.Reply and the source "bounce"; an address that is on the list already keeps its entry.
	// It goes only with VerbFail.
	Suppress bool
	// Notice is enqueued in the same transaction if the settlement takes effect. It goes only with VerbFail.
	Notice *Message
	// Evidence is what the relay said. A zero value leaves the last outcome of the delivery as it is.
	Evidence Evidence
}

// Evidence is what is known of an attempt.
type Evidence struct {
	// Relay is the configured name of the relay.
	Relay string
	// Stage is the stage of the SMTP session that decided, and Class what the answer means; see package smtpx.
	Stage, Class string
	// Code is the SMTP reply code (RFC 5321 §4.2), 0 for none; Enhanced the code of RFC 3463, empty for none.
	Code     int
	Enhanced string
	// Reply is the relay's own words, or the error of the connection, on one line.
	Reply string
	// ProviderID is the name that the provider gave the message.
	ProviderID string
	// Duration is how long the attempt took.
	Duration time.Duration
}

// ReapReport counts what a reaping found.
type ReapReport struct {
	// Requeued lapsed before their final dot could leave: they are queued again.
	Requeued int
	// Uncertain lapsed after that.
	Uncertain int
	// Resent are the uncertain deliveries that their message's policy queued again.
	Resent int
	// Expired passed their deadline while they waited.
	Expired int
}

// Due says what waits on a route, for the wake-up of a dispatcher.
type Due struct {
	Route    string
	Priority Priority
	// In is the time until the next delivery is due by the clock of the database; zero or less means now.
	In time.Duration
	// Paused is true while an operator holds the route back.
	Paused bool
}
