package doctor

import "time"

// Level is the state of an outbox in one word.
type Level string

// The levels, the best first.
const (
	OK       Level = "OK"       // everything that is due is being delivered
	Degraded Level = "DEGRADED" // mail goes out, but something needs a look
	Stalled  Level = "STALLED"  // mail is due, and nothing is being delivered
)

// Diagnosis is what [Verdict] found.
type Diagnosis struct {
	Level Level
	// Problems come in the order of harm, the worst first. Empty if all is well.
	Problems []Problem
}

// Problem is one thing that is wrong.
type Problem struct {
	Kind Kind
	// Level is what the problem alone would make of the outbox.
	Level Level
	// Relay, Route and Dispatcher name what it is about. At most one of them is set, and none if it is the database or everything.
	Relay, Route, Dispatcher string
	// Sentence says the cause in one sentence.
	Sentence string
	// Since is when it began, zero if that is not known. Next is when the system itself tries again, zero if only a person can help.
	Since, Next time.Time
	// Hit lists the routes that suffer, the worst first.
	Hit []Hit
	// Evidence are the words of the relay or the database, with their code. Empty if there are none.
	Evidence string
	// Command is what to type next.
	Command string
}

// Hit is what a problem does to a route.
type Hit struct {
	Route string
	// Waiting counts the deliveries that are due or deferred, Uncertain those whose answer was lost.
	Waiting, Uncertain int64
	// Expired counts those that expired in the last hour, Expiring those that expire within Limits.Soon.
	Expired, Expiring int64
}

// Kind names a problem for programs. It never changes its meaning.
type Kind string

// The kinds.
const (
	KindUnreachable    Kind = "database-unreachable"
	KindNoTables       Kind = "no-tables"
	KindSchemaOlder    Kind = "schema-older"
	KindSchemaNewer    Kind = "schema-newer"
	KindReadOnly       Kind = "database-read-only"
	KindDiskFull       Kind = "disk-nearly-full"
	KindSlow           Kind = "database-slow"
	KindClock          Kind = "clock-apart"
	KindBloat          Kind = "dead-rows"
	KindSnapshot       Kind = "old-snapshot"
	KindRetention      Kind = "retention-behind"
	KindLapsed         Kind = "claims-lapsed"
	KindNoDispatcher   Kind = "no-dispatcher"
	KindAllSilent      Kind = "dispatchers-silent"
	KindSilent         Kind = "dispatcher-silent"
	KindVersions       Kind = "versions-differ"
	KindFault          Kind = "dispatcher-fault"
	KindNotAdvancing   Kind = "not-advancing"
	KindOffline        Kind = "relay-offline"
	KindLogin          Kind = "relay-refuses-us"
	KindQuota          Kind = "quota-used-up"
	KindQuotaNear      Kind = "quota-near-its-end"
	KindRelayPaused    Kind = "relay-paused"
	KindThrottled      Kind = "relay-throttles"
	KindLostAnswers    Kind = "answers-lost"
	KindTrial          Kind = "relay-on-trial"
	KindUnused         Kind = "relay-unused"
	KindUnserved       Kind = "route-unserved"
	KindRoutePaused    Kind = "route-paused"
	KindForgottenPause Kind = "pause-forgotten"
	KindGrowing        Kind = "backlog-grows"
	KindOld            Kind = "oldest-too-old"
	KindExpiring       Kind = "mail-expires"
	KindExpired        Kind = "mail-expired"
	KindFailures       Kind = "failures-rise"
	KindUncertain      Kind = "uncertain"
	KindHeld           Kind = "held-forgotten"
	KindKey            Kind = "key-missing"
	KindComplaints     Kind = "complaints"
)
