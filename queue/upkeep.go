package queue

import "time"

// Rate bounds how fast a relay is sent to, by all dispatchers of a database together.
type Rate struct {
	// PerSecond is the number of recipients that may be sent to in a second on average. Zero means no bound.
	PerSecond float64 `json:"per_second,omitempty"`
	// Burst is how many may go at once after a pause. Defaults to what a second allows, and at least 1.
	Burst int `json:"burst,omitempty"`
}

// RelayState is what the dispatchers of a database share about a relay.
type RelayState struct {
	Name string
	// Paused is for how long nothing is claimed for the relay yet, by the clock of the database. Zero means that it is not
	// paused; the other fields are then empty.
	Paused time.Duration
	// Since is when the pause was set. By is the operator who did it, empty when it was a dispatcher.
	Since  time.Time
	By     string
	Reason string
}

// Heartbeat is what a dispatcher says of itself.
type Heartbeat struct {
	// ID is the owner of its leases.
	ID string
	// Host and PID say where it runs. Version is that of the program, as far as the build says.
	Host    string
	PID     int
	Version string
	// Relays describes each of its relays by name.
	Relays map[string]RelayHealth
	// Faults lists what only a person can mend, apart from the relays.
	Faults []Fault
}

// RelayHealth is what a dispatcher says of one of its relays. All times are by the clock of the dispatcher.
type RelayHealth struct {
	// State is a dispatcher.RelayState, such as "healthy".
	State string `json:"state"`
	// Class, Code and Reason tell the answer or error that led to the state; see package smtpx. Empty for none.
	Class  string `json:"class,omitempty"`
	Code   int    `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Since is when the state began. NextTry is when the relay is tried again, zero if it is in use.
	Since   time.Time `json:"since,omitzero"`
	NextTry time.Time `json:"next_try,omitzero"`
	// Routes are those that the relay serves; none means every route.
	Routes []string `json:"routes,omitempty"`
	// Rate is the configured bound. PerSecond is how many messages a second may begin now, because the relay throttles; zero for no
	// such bound. Concurrency is how many may be sent at once now.
	Rate        Rate    `json:"rate,omitzero"`
	PerSecond   float64 `json:"per_second,omitempty"`
	Concurrency int     `json:"concurrency"`
	// Sending and Waiting count the messages that the dispatcher has claimed for the relay.
	Sending int `json:"sending"`
	Waiting int `json:"waiting"`
}

// Fault is something that only a person can mend. See dispatcher.Fault.
type Fault struct {
	Kind  string    `json:"kind"`
	Relay string    `json:"relay,omitempty"`
	Route string    `json:"route,omitempty"`
	Count int       `json:"count,omitempty"`
	Since time.Time `json:"since,omitzero"`
	Error string    `json:"error,omitempty"`
}

// Retention says how long finished deliveries are kept. The zero value keeps everything.
type Retention struct {
	// Sent is how long a sent delivery is kept. Zero means for ever.
	Sent time.Duration
	// Unsent is how long a failed, expired, cancelled or suppressed delivery is kept. Zero means for ever.
	Unsent time.Duration
	// Body is how long the body and metadata of a message are kept after its last delivery finished. Zero means as long as the
	// message. A message without body cannot be requeued.
	Body time.Duration
}

// CleanReport counts what a cleaning removed.
type CleanReport struct {
	// Purged counts deliveries. Scrubbed counts messages whose body was removed.
	Purged, Scrubbed int
}
