package dispatcher

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

// jobTo is a message to these domains.
func jobTo(id string, domains ...string) *job {
	j := &job{claimed: queue.Claimed{ID: outbox.ID(id), Priority: outbox.Normal}}
	for i, d := range domains {
		j.claimed.Deliveries = append(j.claimed.Deliveries, queue.ClaimedDelivery{Seq: i + 1, Recipient: "ann@" + d})
	}
	return j
}

// anyJob says that every message fits.
func anyJob(*job) bool { return true }

// A message to two domains has its turn although its domains never have room at the same time: one message ends at a time, and
// another for the same domain waits.
func TestAMessageToSeveralDomainsHasItsTurn(t *testing.T) {
	t.Parallel()
	q := newJobs(2)
	var active []*job
	for i := range 2 {
		q.put(jobTo(fmt.Sprintf("x%d", i), "x.example"))
		q.put(jobTo(fmt.Sprintf("y%d", i), "y.example"))
	}
	for range 4 {
		active = append(active, q.next(anyJob))
	}
	q.put(jobTo("both", "x.example", "y.example"))
	for i := range 200 {
		q.put(jobTo(fmt.Sprintf("x%d", i+2), "x.example"))
		q.put(jobTo(fmt.Sprintf("y%d", i+2), "y.example"))
	}
	for range 2 * passedOften {
		q.done(active[0])
		active = active[1:]
		for j := q.next(anyJob); j != nil; j = q.next(anyJob) {
			if j.claimed.ID == "both" {
				return
			}
			active = append(active, j)
		}
	}
	t.Errorf("after %d others it still waits", 2*passedOften)
}

// Messages to a full domain do not keep a lane from claiming others, however often they were passed over. One message that is
// owed its turn stays.
func TestCrowdsAreParted(t *testing.T) {
	t.Parallel()
	q := newJobs(1)
	q.put(jobTo("first", "x.example"))
	if j := q.next(anyJob); j == nil || j.claimed.ID != "first" {
		t.Fatal("nothing may be sent")
	}
	for i := range 10 {
		q.put(jobTo(fmt.Sprintf("x%d", i), "x.example"))
		q.put(jobTo(fmt.Sprintf("both%d", i), "x.example", "y.example"))
	}
	for range passedOften {
		q.put(jobTo("other", "z.example"))
		j := q.next(anyJob)
		if j == nil || j.claimed.ID != "other" {
			t.Fatalf("%+v goes before the other", j)
		}
		q.done(j)
	}
	crowd := q.takeBlocked(2)
	left := q.take()
	if len(crowd)+len(left) != 20 || len(left) != 3 || left[1].claimed.ID != "both0" {
		t.Errorf("%d are put back, and %d stay", len(crowd), len(left))
	}
}

// A message that does not fit is passed over, whatever its priority. Messages are handed back from the end.
func TestWhatDoesNotFitIsPassedOver(t *testing.T) {
	t.Parallel()
	q := newJobs(0)
	for i, p := range []outbox.Priority{outbox.High, outbox.High, outbox.Normal, outbox.Bulk, outbox.Bulk} {
		j := jobTo(strconv.Itoa(i), "x.example")
		j.claimed.Priority = p
		q.put(j)
	}
	ids := func(list ...*job) string {
		var all []string
		for _, j := range list {
			all = append(all, string(j.claimed.ID))
		}
		return strings.Join(all, "")
	}
	if got := ids(q.next(func(j *job) bool { return j.claimed.ID > "0" }), q.next(func(j *job) bool { return j.claimed.ID > "2" })); got != "13" {
		t.Errorf("first go %s", got)
	}
	if got := ids(q.takeLast(2, func(j *job) bool { return j.claimed.ID != "2" })...); got != "40" {
		t.Errorf("back go %s", got)
	}
	if got := ids(q.take()...); got != "2" {
		t.Errorf("%s is left", got)
	}
}
