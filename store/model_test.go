package store_test

import (
	"slices"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

// The reference model: what package store promises, in memory. The test below drives both with the same random verbs of several
// dispatchers and operators, and compares every answer and every row.
type model struct {
	deliveries []*modelDelivery // in the order of their keys
	paused     map[string]bool
	relay      bool // the relay "r1" is paused
	barred     map[string]bool
	claims     []queue.Claimed // everything that was ever claimed: most of it is stale
}

// modelClaim is the row of a claim.
type modelClaim struct {
	token    string
	relay    string
	owner    string
	promised bool // that each delivery is fenced
	alone    bool // for one suspect
	excused  bool // a suspect of the same owner lapsed
	lapsed   bool
}

type modelDelivery struct {
	id        outbox.ID
	seq       int
	recipient string
	route     string
	policy    outbox.UncertainPolicy

	state    outbox.State
	fenced   bool
	attempts int
	lapses   int
	outage   bool // waits through an outage
	later    bool // its time has not come
	deadline deadline
	claim    *modelClaim // while it is leased
	class    string
	doubt    string // the token that may still settle what is uncertain
	relay    string // of the last outcome
	fence    string // the relay of the last fence
	notes    int    // rows in outbox_attempts
}

type deadline int

const (
	noDeadline deadline = iota
	ahead
	passed
)

func (m *model) find(ref queue.Ref) *modelDelivery {
	for _, d := range m.deliveries {
		if d.id == ref.ID && d.seq == ref.Seq {
			return d
		}
	}
	return nil
}

// held returns the claim of a token while it holds anything.
func (m *model) held(token string) *modelClaim {
	for _, d := range m.deliveries {
		if d.claim != nil && d.claim.token == token {
			return d.claim
		}
	}
	return nil
}

// holds says whether a ref is that of the delivery's holder.
func (m *model) holds(ref queue.Ref) *modelDelivery {
	if d := m.find(ref); d != nil && d.state == outbox.StateSending && d.claim.token == ref.Token {
		return d
	}
	return nil
}

// answers says whether a ref may settle: that of the holder, or, while the delivery is uncertain, that of the lapsed lease.
func (m *model) answers(ref queue.Ref) *modelDelivery {
	if d := m.find(ref); d != nil && d.state == outbox.StateUncertain && d.doubt == ref.Token {
		return d
	}
	return m.holds(ref)
}

func (d *modelDelivery) claimable(m *model) bool {
	return d.state == outbox.StateQueued && !d.later && d.deadline != passed && !m.paused[d.route]
}

// end moves a delivery on and ends its lease.
func (d *modelDelivery) end(state outbox.State) {
	d.state, d.fenced, d.claim, d.doubt = state, false, nil, ""
}

// settle is what a verb does.
func (d *modelDelivery) settle(st queue.Settlement) {
	switch st.Outcome {
	case queue.Sent:
		d.end(outbox.StateSent)
	case queue.Failed:
		d.end(outbox.StateFailed)
	case queue.Held:
		d.end(outbox.StateHeld)
	case queue.Expired:
		d.end(outbox.StateExpired)
	case queue.Deferred, queue.Recycled:
		d.end(outbox.StateQueued)
		d.later = st.Delay > 0
	case queue.Uncertain:
		d.end(outbox.StateUncertain)
		d.later = st.Delay > 0
	}
	if st.Outcome != queue.Recycled || st.Evidence != (queue.Evidence{}) {
		d.lapses = 0
	}
	switch {
	case st.Outcome == queue.Recycled:
	case st.Outcome == queue.Deferred && st.Uncounted:
		d.outage = true
	default:
		d.outage = false
	}
	if st.Uncounted || st.Outcome == queue.Recycled {
		d.attempts--
	}
	if st.Evidence != (queue.Evidence{}) {
		d.class, d.relay = st.Evidence.Class, st.Evidence.Relay
		if st.Outcome != queue.Sent {
			d.notes++
		}
	}
}

// reap is what time does.
func (m *model) reap() (report queue.ReapReport) {
	suspects := make(map[string]bool) // owners
	for _, d := range m.deliveries {
		if d.claim != nil && d.claim.alone {
			suspects[d.claim.owner] = suspects[d.claim.owner] || d.claim.lapsed
		}
	}
	blame := func(c *modelClaim) bool {
		_, beside := suspects[c.owner]
		return c.alone || !c.excused && !beside
	}
	for _, d := range m.deliveries {
		if d.claim != nil && !d.claim.alone && suspects[d.claim.owner] {
			d.claim.excused = true
		}
	}
	for _, d := range m.deliveries {
		if d.state != outbox.StateSending || !d.claim.lapsed {
			continue
		}
		d.notes++
		if blame(d.claim) {
			d.lapses++
		}
		d.later = d.lapses >= 2
		if d.fenced || !d.claim.promised && d.policy == outbox.Resend {
			d.class, d.relay = "ambiguous", d.claim.relay
			if d.fenced {
				d.relay = d.fence
			}
			token := d.claim.token
			d.end(outbox.StateUncertain)
			d.doubt, d.later = token, true
			report.Uncertain++
		} else {
			if d.class != "ambiguous" { // an older doubt stays
				d.class, d.relay = "unreachable", ""
			}
			d.attempts = max(0, d.attempts-1) // no relay has refused anything
			if d.lapses >= 5 {
				d.end(outbox.StateHeld)
				d.later = false
				report.Held++
				continue
			}
			d.end(outbox.StateQueued)
			report.Requeued++
		}
	}
	for _, d := range m.deliveries {
		if d.state == outbox.StateUncertain && !d.later && d.policy == outbox.Resend {
			d.end(outbox.StateQueued)
			if d.lapses >= 5 {
				d.state = outbox.StateHeld
				report.Held++
			} else {
				report.Resent++
			}
		}
		if (d.state == outbox.StateQueued || d.state == outbox.StateHeld) && d.deadline == passed {
			d.state = outbox.StateExpired
			report.Expired++
		}
	}
	return report
}

// operate is what an operator's verb does to the deliveries that a filter selects; it returns how many changed.
func (m *model) operate(op string, selected func(*modelDelivery) bool, named []outbox.State, limit int) (n int64) {
	terminal := func(d *modelDelivery) bool { return d.state.Terminal() }
	again := func(d *modelDelivery) bool { // what is requeued although nobody named its state
		return d.state == outbox.StateFailed || d.state == outbox.StateExpired || terminal(d) && slices.Contains(named, d.state)
	}
	queued := func(d *modelDelivery) bool { return d.state == outbox.StateQueued }
	held := func(d *modelDelivery) bool { return d.state == outbox.StateHeld }
	m.deliveries = slices.DeleteFunc(m.deliveries, func(d *modelDelivery) bool {
		if !selected(d) || limit > 0 && n >= int64(limit) {
			return false
		}
		gone, ok := false, true
		switch {
		case op == "requeue" && (again(d) || queued(d) && (d.attempts > 0 || d.outage || d.lapses > 0)):
			d.state, d.attempts, d.lapses, d.outage, d.later = outbox.StateQueued, 0, 0, false, false
			if d.deadline == passed {
				d.deadline = noDeadline
			}
		case op == "hold" && queued(d):
			d.state = outbox.StateHeld
		case op == "release" && held(d):
			d.state, d.lapses = outbox.StateQueued, 0
		case op == "cancel" && (queued(d) || held(d)):
			d.state = outbox.StateCancelled
		case op == "resolve-sent" && d.state == outbox.StateUncertain:
			d.end(outbox.StateSent)
		case op == "resolve-resend" && d.state == outbox.StateUncertain:
			d.end(outbox.StateQueued)
			d.later, d.lapses = false, 0
		case op == "purge" && terminal(d):
			gone = true
		default:
			ok = false
		}
		if ok {
			n++
		}
		return gone
	})
	return n
}
