package dispatcher

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"
)

// degradedShare is the part of its weight that a degraded relay keeps.
const degradedShare = 0.25

// weight returns the present weight of the lane.
func (l *lane) weight() float64 {
	w := float64(l.relay().Weight)
	if state, _, _ := l.breaker.status(time.Now()); state == RelayDegraded {
		w *= degradedShare
	}
	return w
}

// maxLead returns by how much served grows if the lane sends all that it can hold.
func (l *lane) maxLead() float64 { return float64(max(l.room(), 1)) / l.weight() }

// inTurn returns the lanes in the order in which they claim: the one with the least served for its weight first, the backups last.
// Together with [engine.share] this is weighted round-robin, by message under light load and by claim under heavy load.
func (e *engine) inTurn() []*lane {
	lanes := e.snapshot()
	for _, l := range lanes {
		if !l.able() {
			l.idled = true
			continue
		}
		if l.idled { // it does not catch up on the time in which it could not send
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
	for _, l := range lanes { // nor on time in which it was slow or had nothing to do: its arrears are bounded
		for _, other := range lanes {
			if other != l && other.able() && other.relay().shares(l.relay()) {
				l.served = max(l.served, other.served-l.maxLead()-other.maxLead())
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

// share returns how many messages a lane may claim without getting too far ahead of the lanes that serve the same messages and have
// a backlog. It may lead by half of its room. Lanes that cannot send, or that finish nothing, are not waited for.
func (e *engine) share(lanes []*lane, l *lane, free int) int {
	least, heaviest := math.Inf(1), l.weight()
	now := time.Now()
	for _, other := range lanes {
		if other == l || !other.backlog || !other.able() || !other.relay().shares(l.relay()) || other.relay().Backup != l.relay().Backup {
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
	if l.served <= least { // it is this lane's turn, however small its weight
		n = max(n, 1)
	}
	return min(free, n)
}

// claimedSome adds claimed messages to the lane's account.
func (l *lane) claimedSome(n int) { l.served += float64(n) / max(l.weight(), degradedShare) }

// routesOf returns the routes that a lane may claim from now. No routes means every route. A backup gets the routes that no other
// relay can serve now. If there are none, ok is false.
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
