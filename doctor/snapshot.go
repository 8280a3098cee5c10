package doctor

import (
	"slices"
	"time"

	"github.com/outboxmail/outbox/smtpx"
)

// Snapshot is the state of an outbox at one moment. The zero value of a field means that nothing is known about it, and that it is
// not judged.
type Snapshot struct {
	// Now is the time of the database.
	Now         time.Time
	Database    Database
	Dispatchers []Dispatcher
	// Relays has one entry for each relay of the living dispatchers.
	Relays []Relay
	Routes []Route
	// Outcomes are those of the last hour that were not simply successful, the most frequent first.
	Outcomes []Outcome
	// Keys are those that dispatchers lack.
	Keys []Key
	// Complaints counts the complaints of recipients in the last day, Accepted what was sent in that time.
	Complaints, Accepted int64
	// Finished counts the deliveries that ended in the last five minutes.
	Finished int64
}

// Database is the state of the database.
type Database struct {
	// Failure is the error if the database does not answer. Then nothing else is known.
	Failure string
	// Have and Want are the versions of the tables and of the program. Want is 0 if they were not compared.
	Have, Want int
	ReadOnly   bool
	// Latency is the time of a simple query. ClockOff is how far the clock of this host is ahead of the database's.
	Latency, ClockOff time.Duration
	// DeadRows and Rows count the rows of the deliveries' table.
	DeadRows, Rows int64
	// OldestSnapshot is the age of the oldest transaction.
	OldestSnapshot time.Duration
	// DiskFree and DiskSize are in bytes.
	DiskFree, DiskSize int64
	// RetentionBehind is how much longer than wanted the oldest finished delivery has been kept.
	RetentionBehind time.Duration
	// Lapsed counts deliveries whose lease lapsed and that nobody took back. OldestLapse is when the first one lapsed.
	Lapsed      int64
	OldestLapse time.Time
}

// Dispatcher is a dispatcher that did not shut down properly.
type Dispatcher struct {
	ID, Host, Version string
	SeenAt            time.Time
	Silent            time.Duration
	Faults            []Fault
}

// Fault is something that a dispatcher says only a person can mend.
type Fault struct {
	Kind   string
	Reason string
	Since  time.Time
}

// The states of a relay, as dispatchers report them.
const (
	relayOffline  = "offline"
	relayPaused   = "paused"
	relayDegraded = "degraded"
	relayTrial    = "trial"
	relayUnused   = "unused"
)

// Relay is the state of a relay, the worst that a living dispatcher reports.
type Relay struct {
	Name string
	// State is one of healthy, degraded, trial, offline, paused and unused.
	State string
	// Class, Code and Reason are those of the answer that led to the state.
	Class  smtpx.Class
	Code   int
	Reason string
	// Since is when the state began. NextTry is when the relay is tried again, zero if it is in use.
	Since, NextTry time.Time
	// Routes are those that it serves. None means every route.
	Routes []string
	// PerSecond is how many messages may begin in a second because the relay throttles, 0 for no such bound.
	PerSecond float64
	// PausedBy is the operator who paused it, empty for a dispatcher.
	PausedBy string
	// Used and Allowance are what is used of its quota. Allowance is 0 if none is known. Resets is when it begins anew.
	Used, Allowance int64
	Resets          time.Time
}

// serves reports whether the relay takes mail of a route.
func (r *Relay) serves(route string) bool {
	return len(r.Routes) == 0 || slices.Contains(r.Routes, route)
}

// able reports whether the relay takes mail now.
func (r *Relay) able() bool { return r.State != relayOffline && r.State != relayPaused }

// Route is the state of a route.
type Route struct {
	Name string
	// Due, Scheduled and Deferred divide the queued deliveries: due now, never tried and due later, due later after an attempt.
	Due, Scheduled, Deferred int64
	OldestDue                time.Time
	Sending, Uncertain, Held int64
	// OldestHeld is when the oldest held delivery was enqueued.
	OldestHeld time.Time
	// Expiring counts unfinished deliveries that expire within Limits.Soon.
	Expiring int64
	// LastHour counts what ended in the last hour, and Enqueued what was enqueued in it.
	LastHour Ended
	Enqueued int64
	// Paused says that an operator paused the route.
	Paused                bool
	PausedSince           time.Time
	PausedBy, PauseReason string
}

// waiting counts what should be on its way.
func (r *Route) waiting() int64 { return r.Due + r.Deferred }

// Ended counts deliveries by how they ended.
type Ended struct {
	Sent, Failed, Expired, Cancelled, Suppressed int64
}

// Outcome counts the attempts that ended in the same way.
type Outcome struct {
	Relay    string
	Class    smtpx.Class
	Code     int
	Enhanced string
	Reply    string // one of them
	Attempts int64
	// First and Last are when they began.
	First, Last time.Time
}

// Key is a key for encrypted messages that dispatchers lack.
type Key struct {
	ID   string
	Held int64
}

// Limits are what [Verdict] judges by. Zero fields have the defaults of [DefaultLimits].
type Limits struct {
	// Silence is the time without a heartbeat after which a dispatcher counts as dead. Defaults to one minute.
	Silence time.Duration
	// Oldest is how long a delivery may be due. Defaults to 15 minutes.
	Oldest time.Duration
	// Soon is how far ahead a deadline counts as near. Defaults to 15 minutes.
	Soon time.Duration
	// Forgotten is how long a pause or a held delivery may stand. Defaults to a day.
	Forgotten time.Duration
	// Failures is the share of failed among the ended deliveries of the last hour, of at least FailuresOf. Default to 0.1 and 20.
	Failures   float64
	FailuresOf int64
	// Complaints is the share of complaints among the mail accepted in a day. Defaults to 0.001, the bound of large receivers.
	Complaints float64
	// Quota is the share of an allowance that may be used. Defaults to 0.9.
	Quota float64
	// Latency is how long a simple query may take. Defaults to one second.
	Latency time.Duration
	// ClockOff is how far the clocks may be apart. Defaults to 30 seconds.
	ClockOff time.Duration
	// DeadRows is the share of dead rows, of at least 100,000. Defaults to 0.5.
	DeadRows float64
	// Snapshot is how long a transaction may stay open. Defaults to one hour.
	Snapshot time.Duration
	// DiskFree is the share of the disk that must be free. Defaults to 0.05.
	DiskFree float64
	// Retention is how far retention may be behind. Defaults to one day.
	Retention time.Duration
}

// DefaultLimits returns the limits that [Verdict] uses for fields that are zero.
func DefaultLimits() Limits {
	const day = 24 * time.Hour
	return Limits{
		Silence: time.Minute, Oldest: 15 * time.Minute, Soon: 15 * time.Minute, Forgotten: day, Failures: 0.1, FailuresOf: 20,
		Complaints: 0.001, Quota: 0.9, Latency: time.Second, ClockOff: 30 * time.Second, DeadRows: 0.5, Snapshot: time.Hour,
		DiskFree: 0.05, Retention: day,
	}
}

// filled replaces the fields that are zero by their defaults.
func (l Limits) filled() Limits {
	d := DefaultLimits()
	fill(&l.Silence, d.Silence)
	fill(&l.Oldest, d.Oldest)
	fill(&l.Soon, d.Soon)
	fill(&l.Forgotten, d.Forgotten)
	fill(&l.Failures, d.Failures)
	fill(&l.FailuresOf, d.FailuresOf)
	fill(&l.Complaints, d.Complaints)
	fill(&l.Quota, d.Quota)
	fill(&l.Latency, d.Latency)
	fill(&l.ClockOff, d.ClockOff)
	fill(&l.DeadRows, d.DeadRows)
	fill(&l.Snapshot, d.Snapshot)
	fill(&l.DiskFree, d.DiskFree)
	fill(&l.Retention, d.Retention)
	return l
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
