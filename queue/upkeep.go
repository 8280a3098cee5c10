package queue

import "time"

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
	// Relays gives the health of each of its relays in a word: "healthy" or what is wrong.
	Relays map[string]string
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
