package dispatcher

import (
	"slices"

	"github.com/outboxmail/outbox"
)

// jobs holds the messages of a lane: those that wait, by priority, and how many are being sent to each domain. The lane's mutex
// guards it.
type jobs struct {
	waiting   [3][]*job      // high, normal, bulk
	domains   map[string]int // messages being sent, by recipient domain
	perDomain int            // how many may be sent to one domain at once, 0 for any number
}

func newJobs(perDomain int) *jobs { return &jobs{domains: make(map[string]int), perDomain: perDomain} }

// rank returns the index of a priority in waiting.
func rank(p outbox.Priority) int {
	switch p {
	case outbox.High:
		return 0
	case outbox.Bulk:
		return 2
	default:
		return 1
	}
}

// put adds a message.
func (q *jobs) put(j *job) {
	r := rank(j.claimed.Priority)
	q.waiting[r] = append(q.waiting[r], j)
}

// next removes the message that goes next and counts its domains: the oldest one of the highest priority whose domains have room and
// for which fits is true. It returns nil if there is none.
func (q *jobs) next(fits func(j *job) bool) *job {
	kept := make(map[string]int)
	for r := range q.waiting {
		i := q.first(q.waiting[r], kept, fits)
		if i < 0 {
			continue
		}
		j := q.waiting[r][i]
		q.passOver(r, i)
		if i == 0 { // nearly always; the others need not be moved
			q.waiting[r][0] = nil
			q.waiting[r] = q.waiting[r][1:]
		} else {
			q.waiting[r] = slices.Delete(q.waiting[r], i, i+1)
		}
		for _, d := range j.domains() {
			q.domains[d]++
		}
		return j
	}
	return nil
}

// passedOften is the number of later messages that may go before a message to several domains. After that one place in each of
// its domains is kept for it. Without that it would wait until all its domains have room at the same instant.
const passedOften = 20

// owedTurn says whether places are kept for a message.
func (j *job) owedTurn() bool { return j.passed >= passedOften && len(j.domains()) > 1 }

// first returns the index of the first message that may be sent now, or -1. kept counts the places in domains that are kept for an
// earlier message.
func (q *jobs) first(waiting []*job, kept map[string]int, fits func(j *job) bool) int {
	for i, j := range waiting {
		full := q.perDomain > 0 &&
			slices.ContainsFunc(j.domains(), func(d string) bool { return q.domains[d]+kept[d] >= q.perDomain })
		if !full && fits(j) {
			return i
		}
		if full && len(kept) == 0 && j.owedTurn() {
			for _, d := range j.domains() {
				kept[d]++
			}
		}
	}
	return -1
}

// passOver notes for every message that waits before index i of rank r that a later one goes first.
func (q *jobs) passOver(r, i int) {
	for _, before := range q.waiting[:r] {
		for _, j := range before {
			j.passed++
		}
	}
	for _, j := range q.waiting[r][:i] {
		j.passed++
	}
}

// done notes that a message that next returned is finished.
func (q *jobs) done(j *job) {
	for _, d := range j.domains() {
		if q.domains[d]--; q.domains[d] <= 0 {
			delete(q.domains, d)
		}
	}
}

// take removes all waiting messages and returns them.
func (q *jobs) take() []*job {
	var all []*job
	for r := range q.waiting {
		all = append(all, q.waiting[r]...)
		q.waiting[r] = nil
	}
	return all
}

// takeLast removes up to n messages that would go last and for which may is true, and returns them.
func (q *jobs) takeLast(n int, may func(j *job) bool) []*job {
	var out []*job
	for r := len(q.waiting) - 1; r >= 0; r-- {
		for i := len(q.waiting[r]) - 1; i >= 0 && len(out) < n; i-- {
			if j := q.waiting[r][i]; may(j) {
				out = append(out, j)
				q.waiting[r] = slices.Delete(q.waiting[r], i, i+1)
			}
		}
	}
	return out
}

// takeBlocked removes messages that wait for a full domain, and returns them. It leaves spare messages of each domain, and the one
// for which places are kept.
func (q *jobs) takeBlocked(spare int) []*job {
	if q.perDomain <= 0 {
		return nil
	}
	var out []*job
	held := make(map[string]int)
	turn := false
	for r := range q.waiting {
		q.waiting[r] = slices.DeleteFunc(q.waiting[r], func(j *job) bool {
			if !turn && j.owedTurn() {
				turn = true
				return false
			}
			over := false
			for _, d := range j.domains() {
				held[d]++
				over = over || q.domains[d] >= q.perDomain && held[d] > spare
			}
			if over {
				out = append(out, j)
			}
			return over
		})
	}
	return out
}

// count returns how many messages wait.
func (q *jobs) count() (waiting int) {
	for r := range q.waiting {
		waiting += len(q.waiting[r])
	}
	return waiting
}
