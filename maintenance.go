package outbox

import "time"

// The values in this file travel between a store and a dispatcher, as those of delivery.go do. An application that enqueues
// needs none of them.

// Rate bounds how fast a relay is sent to, by all dispatchers of a database together.
type Rate struct {
	// PerSecond is the number of recipients that may be sent to in a second on average. Zero means no bound.
	PerSecond float64
	// Burst is how many may go at once after a pause. Defaults to what a second allows, and at least 1.
	Burst int
}

// RelayState is what the dispatchers of a database share about a relay.
type RelayState struct {
	Name string
	// Paused is for how long nothing is claimed for the relay yet, by the clock of the database; zero when it is not paused. The
	// other fields are then empty, too.
	Paused time.Duration
	// Since is when the pause was set, and By the operator who did it, empty when it was a dispatcher.
	Since  time.Time
	By     string
	Reason string
}

// Heartbeat is what a dispatcher says of itself.
type Heartbeat struct {
	// ID is the owner of its leases.
	ID string
	// Host and PID say where it runs, and Version what it is, as far as the build says.
	Host    string
	PID     int
	Version string
	// Relays says how each of its relays does, in a word: "healthy" or what is wrong.
	Relays map[string]string
}

// Retention says how long what is finished is kept. The zero value keeps everything.
type Retention struct {
	// Sent is how long a delivery that was sent is kept. Zero means for ever.
	Sent time.Duration
	// Unsent is how long one that failed, expired, or was cancelled or suppressed is kept. Zero means for ever.
	Unsent time.Duration
	// Body is how long the body and metadata of a message are kept after its last delivery was sent or otherwise finished.
	// Zero means as long as the message. What has no body cannot be requeued.
	Body time.Duration
}

// CleanReport counts what a cleaning removed.
type CleanReport struct {
	// Purged deliveries, and messages whose body was Scrubbed.
	Purged, Scrubbed int
}
