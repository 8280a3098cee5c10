package queue

import (
	"errors"
	"net/mail"
	"time"
)

// ErrNoBody says that a message is stored without its body because retention removed it. It cannot be sent any more.
var ErrNoBody = errors.New("the body of the message was scrubbed")

// Outcome is how an attempt ended. Its value is the verb that is stored and shown.
type Outcome string

// The outcomes that end a claim.
const (
	// Sent records that the relay accepted the message: sending → sent.
	Sent Outcome = "sent"
	// Deferred puts the delivery back for later: sending → queued, due after Settlement.Delay.
	Deferred Outcome = "defer"
	// Failed gives the delivery up: sending → failed.
	Failed Outcome = "fail"
	// Recycled hands the delivery back uncounted: sending → queued, due after Settlement.Delay, usually at once. It is for
	// deliveries whose turn did not come and for sessions that were used up. Unlike [Deferred] it begins no outage.
	Recycled Outcome = "recycle"
	// Uncertain records that the relay may or may not have accepted the message: sending → uncertain. With [Resend] it is sent
	// again after Settlement.Delay.
	Uncertain Outcome = "uncertain"
	// Expired records that the deadline passed: sending → expired.
	Expired Outcome = "expire"
	// Held sets the delivery aside for an operator: sending → held.
	Held Outcome = "hold"
)

// Settlement is the outcome of one attempt, written under the fencing token of its claim.
type Settlement struct {
	Ref     Ref
	Outcome Outcome
	// Delay is the time until the next attempt, by the clock of the database.
	Delay time.Duration
	// Uncounted gives the number of the attempt back: the message was not to blame.
	Uncounted bool
	// Suppress also puts the recipient on the suppression list, in the same transaction. The reason is Evidence.Reply and the
	// source "bounce". An address that is on the list already keeps its entry. It goes only with [Failed].
	Suppress bool
	// Notice is enqueued in the same transaction if the settlement takes effect. It goes only with [Failed].
	Notice *Notice
	// Evidence is what the relay said. A zero value leaves the last outcome of the delivery as it is.
	Evidence Evidence
}

// Notice is a report about a message that was given up (RFC 6522). It is sent with the null return path, so that it never
// leads to another.
type Notice struct {
	From  mail.Address
	To    []mail.Address
	Route string
	// Raw is the complete report (RFC 5322).
	Raw []byte
}

// Evidence is what is known of an attempt.
type Evidence struct {
	// Relay is the configured name of the relay.
	Relay string
	// Stage is the stage of the SMTP session that decided, and Class what the answer means; see package smtpx.
	Stage, Class string
	// Code is the SMTP reply code (RFC 5321 §4.2), 0 for none. Enhanced is the code of RFC 3463, empty for none.
	Code     int
	Enhanced string
	// Reply is the relay's own words, or the error of the connection, on one line.
	Reply string
	// ProviderID is the name that the provider gave the message.
	ProviderID string
	// Duration is how long the attempt took.
	Duration time.Duration
}
