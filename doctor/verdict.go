package doctor

import (
	"cmp"
	"slices"
)

// Verdict judges a snapshot. The same snapshot and limits always give the same diagnosis.
func Verdict(s Snapshot, limits Limits) Diagnosis {
	j := &judge{Snapshot: s, limits: limits.filled()}
	for _, d := range s.Dispatchers {
		if d.Silent <= j.limits.Silence {
			j.alive = append(j.alive, d)
		}
	}
	for i := range s.Routes {
		j.due += s.Routes[i].Due
	}
	if !j.database() {
		return j.diagnosis() // nothing else is known
	}
	j.dispatchers()
	j.relays()
	j.routes()
	j.outcomes()
	j.upkeep()
	return j.diagnosis()
}

// judge collects the problems of a snapshot.
type judge struct {
	Snapshot
	limits   Limits
	alive    []Dispatcher // heard of within the limit
	due      int64        // on all routes
	problems []Problem
}

func (j *judge) add(p Problem) {
	if p.Level == "" {
		p.Level = Degraded
	}
	j.problems = append(j.problems, p)
}

// diagnosis puts the problems in the order of harm: what stops everything first, then by how many deliveries are hit, those that
// are lost counting most, then in the order in which they were found.
func (j *judge) diagnosis() Diagnosis {
	d := Diagnosis{Level: OK, Problems: j.problems}
	for _, p := range j.problems {
		if p.Level == Stalled || d.Level == OK {
			d.Level = p.Level
		}
	}
	slices.SortStableFunc(d.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(rank(b), rank(a)), cmp.Compare(harm(b), harm(a)))
	})
	return d
}

func rank(p Problem) int {
	if p.Level == Stalled {
		return 1
	}
	return 0
}

// harm weighs what a problem does: lost mail counts ten times as much as mail that waits.
func harm(p Problem) (sum int64) {
	const lost = 10
	for _, h := range p.Hit {
		sum += h.Waiting + lost*(h.Expired+h.Expiring) + 2*h.Uncertain
	}
	return sum
}

// hit returns the routes that fit and have something to suffer with, the worst first.
func (j *judge) hit(fits func(r *Route) bool) []Hit {
	var list []Hit
	for i := range j.Routes {
		r := &j.Routes[i]
		h := Hit{Route: r.Name, Waiting: r.waiting(), Uncertain: r.Uncertain, Expired: r.LastHour.Expired, Expiring: r.Expiring}
		if fits(r) && (h.Waiting > 0 || h.Expired > 0 || h.Expiring > 0 || h.Uncertain > 0) {
			list = append(list, h)
		}
	}
	slices.SortStableFunc(list, func(a, b Hit) int { return cmp.Compare(harm(Problem{Hit: []Hit{b}}), harm(Problem{Hit: []Hit{a}})) })
	return list
}

// everyRoute fits all.
func everyRoute(*Route) bool { return true }
