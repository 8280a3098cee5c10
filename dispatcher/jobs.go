package dispatcher

import (
	"slices"
	"strings"
	"sync"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

// jobs holds the messages of a lane: those that wait, by priority, and the number that is being sent.
type jobs struct {
	mu      sync.Mutex
	changed *sync.Cond
	waiting [3][]*job // high, normal, bulk
	active  int
	domains map[string]int // messages being sent, by recipient domain
	bound   func() (concurrency, perDomain int)
	closed  bool
}

// newJobs returns an empty set. bound returns how many messages may be sent at once, and how many of them to one domain, 0 for any
// number. It is called for every decision.
func newJobs(bound func() (concurrency, perDomain int)) *jobs {
	q := &jobs{domains: make(map[string]int), bound: bound}
	q.changed = sync.NewCond(&q.mu)
	return q
}

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

// put adds a message. It returns false if the lane is closed.
func (q *jobs) put(j *job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	r := rank(j.claimed.Priority)
	q.waiting[r] = append(q.waiting[r], j)
	q.changed.Broadcast()
	return true
}

// next waits for a message that may be sent now and removes it: the oldest one of the highest priority whose domains have room. It
// returns nil if messages wait but the relay may get none at all. It returns false if the lane is closed.
func (q *jobs) next() (*job, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if q.closed {
			return nil, false
		}
		concurrency, perDomain := q.bound()
		if concurrency <= 0 && len(q.waiting[0])+len(q.waiting[1])+len(q.waiting[2]) > 0 {
			return nil, true
		}
		if q.active < concurrency {
			kept := make(map[string]int)
			for r := range q.waiting {
				i := q.first(q.waiting[r], perDomain, kept)
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
				q.active++
				for _, d := range j.domains() {
					q.domains[d]++
				}
				return j, true
			}
		}
		q.changed.Wait()
	}
}

// passedOften is the number of later messages that may go before a message to several domains. After that one place in each of
// its domains is kept for it. Without that it would wait until all its domains have room at the same instant.
const passedOften = 20

// owedTurn says whether places are kept for a message.
func (j *job) owedTurn() bool { return j.passed >= passedOften && len(j.domains()) > 1 }

// first returns the index of the first message that may be sent now, or -1. kept counts the places in domains that are kept for an
// earlier message.
func (q *jobs) first(waiting []*job, perDomain int, kept map[string]int) int {
	if perDomain <= 0 && len(waiting) > 0 {
		return 0
	}
	for i, j := range waiting {
		if !slices.ContainsFunc(j.domains(), func(d string) bool { return q.domains[d]+kept[d] >= perDomain }) {
			return i
		}
		if len(kept) == 0 && j.owedTurn() {
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
	q.mu.Lock()
	defer q.mu.Unlock()
	q.active--
	for _, d := range j.domains() {
		if q.domains[d]--; q.domains[d] <= 0 {
			delete(q.domains, d)
		}
	}
	q.changed.Broadcast()
}

// rebound makes next decide anew, because a bound changed.
func (q *jobs) rebound() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.changed.Broadcast()
}

// take removes all waiting messages and returns them.
func (q *jobs) take() []*job {
	q.mu.Lock()
	defer q.mu.Unlock()
	var all []*job
	for r := range q.waiting {
		all = append(all, q.waiting[r]...)
		q.waiting[r] = nil
	}
	return all
}

// takeBlocked removes messages that wait for a full domain, and returns them. It leaves spare messages of each domain, and the one
// for which places are kept.
func (q *jobs) takeBlocked(spare int) []*job {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, perDomain := q.bound()
	if perDomain <= 0 {
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
				over = over || q.domains[d] >= perDomain && held[d] > spare
			}
			if over {
				out = append(out, j)
			}
			return over
		})
	}
	return out
}

// count returns how many messages wait and how many are being sent.
func (q *jobs) count() (waiting, active int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for r := range q.waiting {
		waiting += len(q.waiting[r])
	}
	return waiting, q.active
}

// close makes put and next refuse everything.
func (q *jobs) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.changed.Broadcast()
}

// domainsOf returns the different domains of the recipients, in lower case.
func domainsOf(list []queue.ClaimedDelivery) []string {
	domains := make([]string, 0, 1)
	for _, d := range list {
		domain := strings.ToLower(d.Recipient[strings.LastIndexByte(d.Recipient, '@')+1:])
		if !slices.Contains(domains, domain) {
			domains = append(domains, domain)
		}
	}
	return domains
}
