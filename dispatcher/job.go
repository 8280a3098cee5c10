package dispatcher

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// The errors with which Envelope.Commit stops a message. None of it was sent.
var (
	errLeaseLost = errors.New("the lease was lost before the message was sent")
	errFence     = errors.New("the fence could not be recorded")
	errExpired   = errors.New("the deadline passed before the message was sent")
	errLate      = errors.New("Envelope.Commit was called after Send had returned")
)

// job is a claimed message on its way through a lane.
type job struct {
	claimed   queue.Claimed
	claimedAt time.Time // before the claim was asked for
	to        []string  // the recipients' domains, set at the first use
	sealed    bool      // it is encrypted at rest
	fenced    bool      // the message must be fenced before it is sent, whatever the relay's Fence
	passed    int       // how many later messages were sent before it
	reserved  int64     // bytes of memory that it holds
}

// expired says whether the deadline of the message has passed. It goes by the time since the claim.
func (j *job) expired() bool {
	return j.claimed.ExpiresIn > 0 && time.Since(j.claimedAt) >= j.claimed.ExpiresIn
}

// large says whether the body has to be fetched before the message is sent.
func (j *job) large() bool { return j.claimed.Body == nil }

// refs returns the references to all deliveries of the job.
func (j *job) refs() []queue.Ref {
	refs := make([]queue.Ref, len(j.claimed.Deliveries))
	for i := range refs {
		refs[i] = j.claimed.Ref(i)
	}
	return refs
}

// domains returns the domains of the recipients. It must not be called concurrently.
func (j *job) domains() []string {
	if j.to == nil {
		j.to = domainsOf(j.claimed.Deliveries)
	}
	return j.to
}

// doubted says whether a delivery of the job may have been accepted before.
func (j *job) doubted() bool { return slices.ContainsFunc(j.claimed.Deliveries, doubtful) }

// doubtful says whether a delivery may have been accepted before.
func doubtful(d queue.ClaimedDelivery) bool { return d.Class == string(smtpx.ClassAmbiguous) }

// same returns the same settlement for every delivery of a job.
func same(j *job, s queue.Settlement) []queue.Settlement {
	list := make([]queue.Settlement, len(j.claimed.Deliveries))
	for i := range list {
		list[i] = s
		list[i].Ref = j.claimed.Ref(i)
	}
	return list
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

// signal sends to a channel with a buffer of one. It never blocks.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
