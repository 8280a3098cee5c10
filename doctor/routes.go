package doctor

import (
	"fmt"
	"time"
)

// routes judges what waits.
func (j *judge) routes() {
	for i := range j.Routes {
		r := &j.Routes[i]
		hit := j.hit(func(other *Route) bool { return other == r })
		switch {
		case r.Paused:
			j.pause(r, hit)
		case len(j.alive) > 0 && r.waiting() > 0 && !j.served(r.Name):
			j.add(Problem{
				Kind: KindUnserved, Route: r.Name, Since: r.OldestDue, Hit: hit,
				Sentence: fmt.Sprintf("No relay serves route %s.", r.Name), Command: "outboxctl list --state queued --route " + r.Name,
			})
		case len(j.alive) > 0 && r.Due > 0 && j.servedFreely(r.Name):
			j.backlog(r, hit)
		}
		j.deadlines(r, hit)
		j.aside(r)
	}
}

// pause judges a route that an operator paused.
func (j *judge) pause(r *Route, hit []Hit) {
	p := Problem{
		Kind: KindRoutePaused, Route: r.Name, Since: r.PausedSince, Hit: hit, Evidence: r.PauseReason,
		Sentence: fmt.Sprintf("Route %s was paused by %s.", r.Name, r.PausedBy), Command: "outboxctl resume " + r.Name,
	}
	if age := j.Now.Sub(r.PausedSince); age > j.limits.Forgotten {
		p.Kind = KindForgottenPause
		p.Sentence = fmt.Sprintf("Route %s has been paused for %s by %s. Was it forgotten?", r.Name, span(age), r.PausedBy)
	}
	j.add(p)
}

// growth is how much more must be enqueued than ends before a backlog counts as growing.
const growth = 1.1

// backlog judges a route whose relays take mail.
func (j *judge) backlog(r *Route, hit []Hit) {
	age := j.Now.Sub(r.OldestDue)
	if age <= j.limits.Oldest {
		return
	}
	ended := r.LastHour.Sent + r.LastHour.Failed + r.LastHour.Expired + r.LastHour.Cancelled + r.LastHour.Suppressed
	p := Problem{
		Kind: KindOld, Route: r.Name, Since: r.OldestDue, Hit: hit,
		Sentence: fmt.Sprintf("The oldest mail on route %s is due for %s.", r.Name, span(age)),
		Command:  "outboxctl list --state queued --route " + r.Name,
	}
	if float64(r.Enqueued) > growth*float64(ended) && r.Due > r.Enqueued-ended {
		p.Kind = KindGrowing
		p.Sentence = fmt.Sprintf("The backlog of route %s grows: %s enqueued and %s finished in the last hour.",
			r.Name, number(r.Enqueued), number(ended))
		p.Command = "give the route a second relay, or raise the rate of its relay"
	}
	j.add(p)
}

// deadlines judges mail that is lost by waiting.
func (j *judge) deadlines(r *Route, hit []Hit) {
	if len(j.alive) == 0 || !r.Paused && !j.servedByAble(r.Name) {
		return // told with the cause
	}
	if r.Expiring > 0 {
		j.add(Problem{
			Kind: KindExpiring, Route: r.Name, Hit: hit,
			Sentence: fmt.Sprintf("Route %s: %s within %s.",
				r.Name, counted(r.Expiring, "delivery expires", "deliveries expire"), span(j.limits.Soon)),
			Command: "outboxctl list --state queued --route " + r.Name,
		})
	}
	if r.LastHour.Expired > 0 {
		j.add(Problem{
			Kind: KindExpired, Route: r.Name, Hit: hit,
			Sentence: fmt.Sprintf("Route %s: %s in the last hour.",
				r.Name, counted(r.LastHour.Expired, "delivery expired unsent", "deliveries expired unsent")),
			Command: "outboxctl list --state expired --since 1h --route " + r.Name,
		})
	}
}

// aside judges what waits for a person.
func (j *judge) aside(r *Route) {
	if r.Uncertain > 0 && !j.doubted(r.Name) {
		j.add(Problem{
			Kind: KindUncertain, Route: r.Name, Hit: []Hit{{Route: r.Name, Uncertain: r.Uncertain}},
			Sentence: fmt.Sprintf("Route %s: nobody knows whether %s.", r.Name, counted(r.Uncertain, "message arrived", "messages arrived")),
			Command:  "outboxctl resolve --sent or --resend --state uncertain --route " + r.Name,
		})
	}
	if r.Held > 0 && !r.OldestHeld.IsZero() && j.Now.Sub(r.OldestHeld) > j.limits.Forgotten {
		j.add(Problem{
			Kind: KindHeld, Route: r.Name, Since: r.OldestHeld,
			Sentence: fmt.Sprintf("Route %s: %s, the oldest for %s.",
				r.Name, counted(r.Held, "delivery is held", "deliveries are held"), span(j.Now.Sub(r.OldestHeld))),
			Command: "outboxctl list --state held --route " + r.Name,
		})
	}
}

// doubted reports whether a relay of the route lost answers, which is told with the relay.
func (j *judge) doubted(route string) bool {
	for i := range j.Relays {
		if r := &j.Relays[i]; r.serves(route) && r.able() && j.lostAnswers(r) > 0 {
			return true
		}
	}
	return false
}

// outcomes judges what came back lately.
func (j *judge) outcomes() {
	for _, k := range j.Keys {
		j.add(Problem{
			Kind: KindKey,
			Sentence: fmt.Sprintf("%s for the key %s, which the dispatchers lack.",
				counted(k.Held, "delivery waits", "deliveries wait"), k.ID),
			Command: "give the dispatchers the key, then outboxctl release --class config",
		})
	}
	for i := range j.Routes {
		r := &j.Routes[i]
		ended := r.LastHour.Sent + r.LastHour.Failed
		if r.LastHour.Failed < j.limits.FailuresOf || float64(r.LastHour.Failed) <= j.limits.Failures*float64(ended) {
			continue
		}
		j.add(Problem{
			Kind: KindFailures, Route: r.Name, Evidence: j.refusals(),
			Sentence: fmt.Sprintf("Route %s: %s of the last %s deliveries failed.", r.Name, number(r.LastHour.Failed), number(ended)),
			Command:  "outboxctl list --state failed --since 1h --count-by reply --route " + r.Name,
		})
	}
	if j.Complaints > 1 && float64(j.Complaints) > j.limits.Complaints*float64(j.Accepted) {
		j.add(Problem{
			Kind: KindComplaints,
			Sentence: fmt.Sprintf("%s in a day for %s messages: receivers will block you.",
				counted(j.Complaints, "complaint", "complaints"), number(j.Accepted)),
			Command: "outboxctl suppress list",
		})
	}
}

// refusals returns the most frequent words with which relays refused mail for good.
func (j *judge) refusals() string {
	for _, o := range j.Outcomes {
		if o.Class == "recipient" || o.Class == "message" {
			return coded(o.Code, o.Enhanced, o.Reply)
		}
	}
	return ""
}

// oldestDue is since when something is due.
func (j *judge) oldestDue() (oldest time.Time) {
	for _, r := range j.Routes {
		if r.Due > 0 && (oldest.IsZero() || r.OldestDue.Before(oldest)) {
			oldest = r.OldestDue
		}
	}
	return oldest
}
