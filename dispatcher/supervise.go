package dispatcher

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/outboxmail/outbox/queue"
)

// superviseEvery is the time between two looks for what waits for a person.
const superviseEvery = 15 * time.Second

// sends holds the messages that a lane is sending, and since when.
type sends struct {
	mu    sync.Mutex
	since map[*job]time.Time
}

func (s *sends) begin(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since == nil {
		s.since = make(map[*job]time.Time)
	}
	s.since[j] = time.Now()
}

func (s *sends) end(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.since, j)
}

// longerThan returns how many sends take longer than limit, and how long the longest of them takes.
func (s *sends) longerThan(limit time.Duration) (n int, longest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, since := range s.since {
		if d := time.Since(since); d > limit {
			n, longest = n+1, max(longest, d)
		}
	}
	return n, longest
}

// supervise looks for messages that only a person can help: those on routes that no relay serves, and sends that do not return. Health
// tells of them, and the log once, until ctx ends.
func (e *engine) supervise(ctx context.Context) {
	tick := time.NewTicker(superviseEvery)
	defer tick.Stop()
	told := make(map[string]bool)
	for {
		var words []string
		now := make(map[string]bool)
		for _, route := range e.orphans(ctx) {
			now["route "+route] = true
			words = append(words, fmt.Sprintf("messages wait on route %q, which no relay serves", route))
			if !told["route "+route] {
				e.log.ErrorContext(ctx, "no relay serves a route on which messages wait", "route", route)
			}
		}
		for _, l := range e.snapshot() {
			n, longest := l.sends.longerThan(e.cfg.SendTimeout)
			if n == 0 {
				continue
			}
			now["relay "+l.name] = true
			words = append(words, fmt.Sprintf("relay %s: %d sends have not returned, one for %v", l.name, n, longest.Round(time.Second)))
			if !told["relay "+l.name] {
				e.log.ErrorContext(ctx, "sends do not return", "relay", l.name, "messages", n, "longest", longest)
			}
		}
		told = now
		e.stalled.Store(&words)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// orphans returns the routes on which messages are due and which no relay of this dispatcher serves. It returns none if the queue does
// not answer.
func (e *engine) orphans(ctx context.Context) []string {
	lanes := e.snapshot()
	if slices.ContainsFunc(lanes, func(l *lane) bool { return len(l.relay().Routes) == 0 }) {
		return nil // it serves every route
	}
	due, err := e.due(ctx, nil)
	if err != nil {
		return nil
	}
	routes := make(map[string]bool)
	for _, d := range due {
		served := slices.ContainsFunc(lanes, func(l *lane) bool { return l.relay().serves(d.Route) })
		if !served && isDue(d) {
			routes[d.Route] = true
		}
	}
	return slices.Sorted(maps.Keys(routes))
}

// isDue says whether a message is due that no operator holds back.
func isDue(d queue.Due) bool { return !d.Paused && d.In <= 0 }
