package dispatcher

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/outboxmail/outbox/queue"
)

const (
	// degradedShare is the part of its weight that a degraded relay keeps.
	degradedShare = 0.25
	// shortestWait is the shortest time between two looks at the queue. Without it the claimer would spin if something is due that
	// cannot be claimed.
	shortestWait = 20 * time.Millisecond
	// longestDoubling bounds how often the wait doubles after looks that claimed nothing although something is due.
	longestDoubling = 6
)

// planner decides which lanes claim, in which order and how much, and when to look at the queue again. It knows only what it is shown:
// the lanes, what is due, and what came of its orders. It is not safe for concurrent use.
//
// Lanes that serve the same messages share them by weight. The shares order the work: the lane that has had the least for its weight
// goes first, and one that is ahead waits for those behind. It waits only for what they can begin within ahead, so a slow relay does
// not slow a fast one, and no slot stays free for longer. Messages on routes that only one lane serves are in nobody's share.
type planner struct {
	poll     time.Duration
	accounts map[string]*account
	barren   int // looks in a row that claimed nothing although something was due
}

// account is what the planner remembers of a lane.
type account struct {
	served  float64   // shared messages that it claimed, divided by its weight
	idled   bool      // it could not send at the last turn
	backlog bool      // the queue probably has more for it
	last    queue.Due // where its last message came from
	guessed bool      // its last claim looked there first
}

// plan is what to do now.
type plan struct {
	back    []handBack
	orders  []order
	next    time.Time // when to look at the queue; zero means as arranged before
	turn    time.Time // when to plan again without a look; zero for no time
	held    bool      // a lane waits for its turn
	orphans []string  // routes on which messages are due and which no lane serves, in order
}

func newPlanner(poll time.Duration) *planner {
	return &planner{poll: poll, accounts: make(map[string]*account)}
}

// account returns the account of a lane.
func (p *planner) account(name string) *account {
	a := p.accounts[name]
	if a == nil {
		a = &account{idled: true}
		p.accounts[name] = a
	}
	return a
}

// needsDue says whether the planner has to be shown what is due: for a look, and if a backup for every route may have to step in.
func (p *planner) needsDue(lanes []view, why cause) bool {
	if why == causeLook {
		return true
	}
	down := slices.ContainsFunc(lanes, func(v view) bool { return !v.Backup && !v.Able })
	return down && slices.ContainsFunc(lanes, func(v view) bool {
		return v.Backup && v.Able && len(v.Routes) == 0 && (why == causeWake && v.Free > 0 || p.worthAClaim(v))
	})
}

// plan returns what to do. due is what the queue has on the routes of all lanes; it is nil if nobody looked. Tell the planner what came
// of each order by calling claimed.
func (p *planner) plan(now time.Time, lanes []view, due []queue.Due, why cause) plan {
	var out plan
	busy := func(v view) bool { return p.worthAClaim(v) || v.Free < 0 || v.Recovered }
	if why == causeProgress && due == nil && !slices.ContainsFunc(lanes, busy) {
		return plan{turn: nextTurn(now, lanes)} // nothing to do, as after most messages
	}
	p.forgetGone(lanes)
	p.balance(lanes)
	lanes = slices.Clone(lanes)
	slices.SortStableFunc(lanes, func(a, b view) int {
		if a.Backup != b.Backup {
			if a.Backup {
				return 1
			}
			return -1
		}
		return cmp.Compare(p.account(a.Name).served, p.account(b.Name).served)
	})
	out.back = handBacks(lanes)
	ordered := make(map[string]int) // of this turn
	for _, v := range lanes {
		o, held := p.order(lanes, v, due, why, ordered)
		out.held = out.held || held
		if o.Limit > 0 {
			out.orders = append(out.orders, o)
			ordered[v.Name] = o.Limit
		}
	}
	out.next = p.nextLook(now, lanes, due, why)
	if out.turn = nextTurn(now, lanes); out.held {
		out.turn = now.Add(shortestWait)
	}
	if due != nil {
		out.orphans = orphans(lanes, due)
	}
	return out
}

// forgetGone removes the accounts of lanes that are gone.
func (p *planner) forgetGone(lanes []view) {
	maps.DeleteFunc(p.accounts, func(name string, _ *account) bool {
		return !slices.ContainsFunc(lanes, func(v view) bool { return v.Name == name })
	})
}

// balance bounds the arrears of each lane. A lane does not catch up on time in which it could not send, was slow, or had nothing to do:
// it is behind by no more than it can begin within ahead.
func (p *planner) balance(lanes []view) {
	for _, v := range lanes {
		a := p.account(v.Name)
		if !v.Able {
			a.idled = true
			continue
		}
		if !a.idled {
			continue
		}
		a.idled = false
		least := math.Inf(1)
		for _, other := range rivals(lanes, v) {
			if o := p.account(other.Name); !o.idled {
				least = min(least, o.served)
			}
		}
		if !math.IsInf(least, 1) {
			a.served = max(a.served, least)
		}
	}
	for _, v := range lanes {
		a := p.account(v.Name)
		for _, other := range rivals(lanes, v) {
			a.served = max(a.served, p.account(other.Name).served-v.lead())
		}
	}
}

// lead returns by how much served grows while the lane begins what it can within ahead. It is zero for a lane that begins not even one.
func (v view) lead() float64 {
	if v.Reach < 1 {
		return 0
	}
	return v.Reach / v.weight()
}

// weight returns the weight of a lane, never zero.
func (v view) weight() float64 { return max(v.Weight, degradedShare) }

// rivals returns the lanes that can send and that serve messages of v, in the same order of use.
func rivals(lanes []view, v view) []view {
	var list []view
	for _, other := range lanes {
		if other.Name != v.Name && other.Able && other.Backup == v.Backup && shareRoutes(other.Routes, v.Routes) {
			list = append(list, other)
		}
	}
	return list
}

// order returns the claim of one lane. Its limit is zero if there is none. held says that the lane has to wait for others. ordered has
// what the lanes before it may claim in this turn.
func (p *planner) order(lanes []view, v view, due []queue.Due, why cause, ordered map[string]int) (o order, held bool) {
	a := p.account(v.Name)
	if v.Recovered {
		a.backlog = true
	}
	if why == causeLook {
		a.guessed = false
	}
	switch {
	case !v.Able:
		a.backlog = false
		return order{}, false
	case v.Free <= 0:
		a.backlog = true
		return order{}, false
	case why == causeProgress && !p.worthAClaim(v):
		return order{}, false
	}
	routes, ok := routesOf(lanes, v, due)
	waits := func(d queue.Due) bool { return isDue(d) && serves(routes, d.Route) }
	if !ok || why == causeLook && !slices.ContainsFunc(due, waits) {
		a.backlog = false
		return order{}, false
	}
	limit := p.share(lanes, v, ordered)
	if limit <= 0 { // the others come first, except on routes that only this lane serves
		a.backlog = true
		if routes = alone(lanes, v, routes, due); len(routes) == 0 {
			return order{}, true
		}
		limit, held = v.Free, true
	}
	a.guessed = why == causeWake && v.Free == v.Room && !a.guessed && a.last.Route != "" && serves(routes, a.last.Route)
	o = order{Lane: v.Name, Routes: routes, Limit: limit}
	if a.guessed { // every other time only, so that urgent messages elsewhere do not wait for long
		o.Expect = a.last
	}
	return o, held
}

// worthAClaim says whether a lane that has more to claim should do so now. While messages wait in the lane, that is when half of its room
// is free: under load one claim then brings many messages.
func (p *planner) worthAClaim(v view) bool {
	return p.account(v.Name).backlog && v.Free > 0 && (v.Waiting == 0 || v.Free >= v.Room/2)
}

// share returns how many messages a lane may claim without getting too far ahead of the lanes that serve the same messages and have a
// backlog. It may lead by half of its room.
func (p *planner) share(lanes []view, v view, ordered map[string]int) int {
	least, heaviest := math.Inf(1), v.weight()
	for _, other := range rivals(lanes, v) {
		o := p.account(other.Name)
		if !o.backlog && ordered[other.Name] == 0 {
			continue
		}
		least = min(least, o.served+float64(ordered[other.Name])/other.weight())
		heaviest = max(heaviest, other.weight())
	}
	if math.IsInf(least, 1) {
		return v.Free
	}
	served := p.account(v.Name).served
	slack := max(1, float64(v.Room)/2) / heaviest
	n := int((least + slack - served) * v.weight())
	if served <= least { // it is this lane's turn, however small its weight
		n = max(n, 1)
	}
	return min(v.Free, n)
}

// alone returns those of the routes that no rival serves. If the lane serves every route, only the routes that are known to be due are
// looked at.
func alone(lanes []view, v view, routes []string, due []queue.Due) []string {
	if len(routes) == 0 {
		for _, d := range due {
			if isDue(d) && !slices.Contains(routes, d.Route) {
				routes = append(routes, d.Route)
			}
		}
	}
	others := rivals(lanes, v)
	return slices.DeleteFunc(slices.Clone(routes), func(route string) bool {
		return slices.ContainsFunc(others, func(other view) bool { return serves(other.Routes, route) })
	})
}

// routesOf returns the routes that a lane may claim from now. No routes means every route. A backup gets the routes that no other
// relay can serve now. If there are none, ok is false.
func routesOf(lanes []view, v view, due []queue.Due) (routes []string, ok bool) {
	if !v.Backup {
		return v.Routes, true
	}
	candidates := v.Routes
	if len(candidates) == 0 {
		for _, d := range due {
			if !slices.Contains(candidates, d.Route) {
				candidates = append(candidates, d.Route)
			}
		}
	}
	for _, route := range candidates {
		covered := slices.ContainsFunc(lanes, func(other view) bool {
			return !other.Backup && other.Able && serves(other.Routes, route)
		})
		if !covered {
			routes = append(routes, route)
		}
	}
	return routes, len(routes) > 0
}

// handBacks returns what lanes should hand back: what they cannot begin within ahead, if another lane could.
func handBacks(lanes []view) (list []handBack) {
	for _, v := range lanes {
		if v.Free >= 0 || v.Waiting == 0 || !v.Able {
			continue
		}
		free := 0
		var routes [][]string
		for _, other := range rivals(lanes, v) {
			if other.Free > 0 {
				free += other.Free
				routes = append(routes, other.Routes)
			}
		}
		if free > 0 {
			list = append(list, handBack{Lane: v.Name, Most: min(free, -v.Free), Routes: func(route string) bool {
				return slices.ContainsFunc(routes, func(r []string) bool { return serves(r, route) })
			}})
		}
	}
	return list
}

// orphans returns the routes on which messages are due and which no lane serves.
func orphans(lanes []view, due []queue.Due) []string {
	found := make(map[string]bool)
	for _, d := range due {
		if isDue(d) && !slices.ContainsFunc(lanes, func(v view) bool { return serves(v.Routes, d.Route) }) {
			found[d.Route] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// nextLook returns when to look at the queue: when something becomes due, or at the next poll. After looks that claimed nothing
// although something is due, the wait grows.
func (p *planner) nextLook(now time.Time, lanes []view, due []queue.Due, why cause) time.Time {
	if why == causeProgress {
		return time.Time{}
	}
	wait := p.poll
	if due == nil { // what else is due is known after the next look
		wait = min(wait, shortestWait)
		if slices.ContainsFunc(lanes, func(v view) bool { return p.account(v.Name).guessed }) {
			wait = min(wait, shortestWait/2) // urgent messages may wait on other routes
		}
	}
	for _, v := range lanes {
		if !v.Able {
			continue
		}
		soonest := shortestWait << min(max(p.barren-1, 0), longestDoubling)
		if v.Rate.PerSecond > 0 { // the message may wait for the allowance
			soonest = max(shortestWait, time.Duration(float64(time.Second)/v.Rate.PerSecond))
		}
		routes, ok := routesOf(lanes, v, due)
		for _, d := range due {
			// What is due while the lane is full is claimed when it has room.
			if ok && !d.Paused && serves(routes, d.Route) && (d.In > 0 || v.Free > 0) {
				wait = min(wait, max(d.In, soonest))
			}
		}
	}
	return now.Add(wait)
}

// nextTurn returns when to plan again without a look: when a lane has more room, and while messages wait in a lane beside others.
func nextTurn(now time.Time, lanes []view) (turn time.Time) {
	sooner := func(t time.Time) {
		if turn.IsZero() || t.Before(turn) {
			turn = t
		}
	}
	for _, v := range lanes {
		if !v.Opens.IsZero() {
			sooner(v.Opens)
		}
		if v.Waiting > 0 && len(rivals(lanes, v)) > 0 {
			sooner(now.Add(ahead))
		}
	}
	return turn
}

// claimed notes what came of an order: where each message came from, and how many deliveries there are.
func (p *planner) claimed(lanes []view, o order, got []queue.Due, deliveries int) {
	a := p.account(o.Lane)
	a.backlog = deliveries >= o.Limit
	i := slices.IndexFunc(lanes, func(v view) bool { return v.Name == o.Lane })
	if len(got) == 0 || i < 0 {
		return
	}
	a.last = got[len(got)-1]
	others := rivals(lanes, lanes[i])
	for _, d := range got {
		if slices.ContainsFunc(others, func(other view) bool { return serves(other.Routes, d.Route) }) {
			a.served += 1 / lanes[i].weight()
		}
	}
}

// turned notes how many messages a turn claimed, and whether something had been due.
func (p *planner) turned(due []queue.Due, got int) {
	switch {
	case got > 0 || !slices.ContainsFunc(due, isDue):
		p.barren = 0
	default:
		p.barren++
	}
}
