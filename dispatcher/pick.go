package dispatcher

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"
)

// degradedShare is what a relay that is degraded keeps of its weight.
const degradedShare = 0.25

// weight is the lane's share as it stands now.
func (l *lane) weight() float64 {
	w := float64(l.relay().Weight)
	if state, _, _ := l.breaker.status(time.Now()); state == RelayDegraded {
		w *= degradedShare
	}
	return w
}

// reach is how far a full lane gets by all that it holds.
func (l *lane) reach() float64 { return float64(max(l.room(), 1)) / l.weight() }

// inTurn are the lanes in the order in which they may claim: the one that has had least for its weight first, and the backups
// last. Together with [engine.share] this is weighted round-robin: under light load message by message, under heavy load
// claim by claim.
func (e *engine) inTurn() []*lane {
	lanes := e.snapshot()
	for _, l := range lanes {
		if !l.able() {
			l.idled = true
			continue
		}
		if l.idled { // it does not make up for the time in which it could not send
			l.idled = false
			least := math.Inf(1)
			for _, other := range lanes {
				if other != l && !other.idled && other.able() && other.relay().shares(l.relay()) {
					least = min(least, other.served)
				}
			}
			if !math.IsInf(least, 1) {
				l.served = max(l.served, least)
			}
		}
	}
	for _, l := range lanes { // nor for one in which it was slow, or had nothing to do: what it may be owed is bounded
		for _, other := range lanes {
			if other != l && other.able() && other.relay().shares(l.relay()) {
				l.served = max(l.served, other.served-l.reach()-other.reach())
			}
		}
	}
	slices.SortStableFunc(lanes, func(a, b *lane) int {
		if a.relay().Backup != b.relay().Backup {
			if a.relay().Backup {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.served, b.served)
	})
	return lanes
}

// share is how many messages a lane may claim so that it does not get ahead of the others that serve the same messages and
// have work: half of its room beyond what is theirs. Lanes that cannot send, or have finished nothing for a while, are not
// waited for.
func (e *engine) share(lanes []*lane, l *lane, free int) int {
	least, heaviest := math.Inf(1), l.weight()
	now := time.Now()
	for _, other := range lanes {
		if other == l || !other.hungry || !other.able() || !other.relay().shares(l.relay()) || other.relay().Backup != l.relay().Backup {
			continue
		}
		if other.free() <= 0 && other.stuck(now) {
			continue
		}
		least, heaviest = min(least, other.served), max(heaviest, other.weight())
	}
	if math.IsInf(least, 1) {
		return free
	}
	slack := max(1, float64(l.room())/2) / heaviest
	n := int((least + slack - l.served) * l.weight())
	if l.served <= least { // whose turn it is: however small its weight, the others wait for it
		n = max(n, 1)
	}
	return min(free, n)
}

// claimedSome notes how many messages a lane claimed.
func (l *lane) claimedSome(n int) { l.served += float64(n) / max(l.weight(), degradedShare) }

// routesOf are the routes that a lane may claim from now; none means every route. A backup has those that no other relay can
// serve, which may be none at all: then ok is false.
func (e *engine) routesOf(ctx context.Context, lanes []*lane, l *lane) (routes []string, ok bool, err error) {
	r := l.relay()
	if !r.Backup {
		return r.Routes, true, nil
	}
	covered := func(route string) bool {
		return slices.ContainsFunc(lanes, func(other *lane) bool {
			return !other.relay().Backup && other.able() && other.relay().serves(route)
		})
	}
	candidates := r.Routes
	if len(candidates) == 0 {
		due, err := e.due(ctx, nil)
		if err != nil {
			return nil, false, err
		}
		for _, d := range due {
			if !slices.Contains(candidates, d.Route) {
				candidates = append(candidates, d.Route)
			}
		}
	}
	for _, route := range candidates {
		if !covered(route) {
			routes = append(routes, route)
		}
	}
	return routes, len(routes) > 0, nil
}

// another says whether a relay other than l can take messages of a route.
func (e *engine) another(l *lane, route string) bool {
	return slices.ContainsFunc(e.snapshot(), func(other *lane) bool {
		return other != l && other.able() && other.relay().serves(route)
	})
}
