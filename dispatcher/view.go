package dispatcher

import (
	"slices"
	"time"

	"github.com/outboxmail/outbox/queue"
)

// view is what the planner sees of a lane.
type view struct {
	Name    string
	Routes  []string // that the relay serves; none means every route
	Backup  bool
	Weight  float64 // its present share: a degraded relay has less
	Rate    queue.Rate
	Able    bool      // the relay may get messages
	Free    int       // how many messages the lane may claim; negative if it holds more than it can begin soon
	Room    int       // how many messages it may hold
	Waiting int       // how many wait in it
	Reach   float64   // how many messages it could begin within ahead
	Opens   time.Time // when it has more room without any event; zero for never
	// Recovered is true once after the relay came back.
	Recovered bool
}

// order is one claim.
type order struct {
	Lane   string
	Routes []string // none means every route
	Limit  int
	Expect queue.Due
}

// handBack asks a lane for messages that other lanes can begin sooner.
type handBack struct {
	Lane   string
	Most   int
	Routes func(route string) bool // those that the others serve
}

// cause is why the planner is asked.
type cause int

const (
	// causeProgress means that a slot was freed or an outcome recorded.
	causeProgress cause = iota
	// causeWake means that the queue may have changed.
	causeWake
	// causeLook means that the queue was looked at.
	causeLook
)

// serves says whether a list of routes contains a route. An empty list contains every route.
func serves(routes []string, route string) bool {
	return len(routes) == 0 || slices.Contains(routes, route)
}

// shareRoutes says whether two lists of routes have one in common.
func shareRoutes(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(route string) bool { return slices.Contains(b, route) })
}

// isDue says whether a message is due that no operator holds back.
func isDue(d queue.Due) bool { return !d.Paused && d.In <= 0 }
