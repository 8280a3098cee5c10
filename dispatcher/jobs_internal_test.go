package dispatcher

import (
	"fmt"
	"testing"

	"github.com/outboxmail/outbox"
)

// jobTo is a message to these domains.
func jobTo(id string, domains ...string) *job {
	j := &job{claimed: outbox.Claimed{ID: outbox.ID(id), Priority: outbox.Normal}}
	for i, d := range domains {
		j.claimed.Deliveries = append(j.claimed.Deliveries, outbox.ClaimedDelivery{Seq: i + 1, Recipient: "ann@" + d})
	}
	return j
}

// A message to two domains has its turn although neither ever has room while the other has: one message ends at a time, and
// another for the same domain waits.
func TestAMessageToSeveralDomainsHasItsTurn(t *testing.T) {
	t.Parallel()
	q := newJobs(func() (concurrency, perDomain int) { return 4, 2 })
	var active []*job
	next := func() *job {
		t.Helper()
		j, ok := q.next()
		if !ok || j == nil {
			t.Fatal("nothing may be sent")
		}
		return j
	}
	for i := range 2 {
		q.put(jobTo(fmt.Sprintf("x%d", i), "x.example"))
		q.put(jobTo(fmt.Sprintf("y%d", i), "y.example"))
	}
	for range 4 {
		active = append(active, next())
	}
	q.put(jobTo("both", "x.example", "y.example"))
	for i := range 200 {
		q.put(jobTo(fmt.Sprintf("x%d", i+2), "x.example"))
		q.put(jobTo(fmt.Sprintf("y%d", i+2), "y.example"))
	}
	fits := func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.first(q.waiting[1], 2, make(map[string]int)) >= 0
	}
	for range 2 * passedOften {
		q.done(active[0])
		active = active[1:]
		for fits() {
			j := next()
			if j.claimed.ID == "both" {
				return
			}
			active = append(active, j)
		}
	}
	t.Errorf("after %d others it still waits", 2*passedOften)
}
