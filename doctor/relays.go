package doctor

import (
	"fmt"
	"slices"

	"github.com/outboxmail/outbox/smtpx"
)

// relays judges each relay.
func (j *judge) relays() {
	for i := range j.Relays {
		r := &j.Relays[i]
		hit := j.hit(func(route *Route) bool { return r.serves(route.Name) && !route.Paused })
		p := Problem{
			Relay: r.Name, Since: r.Since, Next: r.NextTry, Hit: hit, Evidence: j.wordsOf(r),
			Command: "outboxctl list --relay " + r.Name + " --since 1h",
		}
		switch {
		case r.State == relayOffline && r.Class == smtpx.ClassConfig:
			p.Kind, p.Sentence = KindLogin, fmt.Sprintf("Relay %s refuses us: somebody must mend its configuration.", r.Name)
		case r.State == relayOffline:
			p.Kind, p.Sentence = KindOffline, fmt.Sprintf("Relay %s cannot be reached.", r.Name)
		case r.State == relayPaused && r.PausedBy != "":
			p.Kind, p.Sentence = KindRelayPaused, fmt.Sprintf("Relay %s was paused by %s.", r.Name, r.PausedBy)
		case r.State == relayPaused:
			p.Kind, p.Sentence = KindQuota, fmt.Sprintf("The quota of relay %s is used up.", r.Name)
		case j.lostAnswers(r) > 0:
			p.Kind = KindLostAnswers
			p.Sentence = fmt.Sprintf("Relay %s: %s after the end of the message.",
				r.Name, counted(j.lostAnswers(r), "answer was lost", "answers were lost"))
			p.Command = "outboxctl list --state uncertain --relay " + r.Name
		case r.PerSecond > 0 || r.Class == smtpx.ClassThrottled && r.State != "healthy":
			p.Kind, p.Sentence = KindThrottled, fmt.Sprintf("Relay %s is slowed down%s.", r.Name, rateWords(r.PerSecond))
			if len(hit) == 0 {
				continue // nothing waits for it
			}
		case r.State == relayTrial, r.State == relayDegraded:
			p.Kind, p.Sentence = KindTrial, fmt.Sprintf("Relay %s had faults and is being tried.", r.Name)
		case r.State == relayUnused && j.overdue(hit):
			p.Kind, p.Sentence = KindUnused, fmt.Sprintf("Relay %s was never used, although mail is due for it.", r.Name)
		case r.Allowance > 0 && float64(r.Used) >= j.limits.Quota*float64(r.Allowance):
			p.Kind, p.Next = KindQuotaNear, r.Resets
			p.Sentence = fmt.Sprintf("Relay %s has used %s of its %s messages.", r.Name, number(r.Used), number(r.Allowance))
		default:
			continue
		}
		if !r.able() && j.nothingGoes() {
			p.Level = Stalled
		}
		j.add(p)
	}
}

func rateWords(perSecond float64) string {
	if perSecond <= 0 {
		return ""
	}
	return fmt.Sprintf(" to %.2g messages a second", perSecond)
}

// wordsOf returns the words of a relay with their code: those of its state, or else the most frequent ones of the last hour.
func (j *judge) wordsOf(r *Relay) string {
	if r.Reason != "" {
		return coded(r.Code, "", r.Reason)
	}
	for _, o := range j.Outcomes {
		if o.Relay == r.Name && o.Reply != "" {
			return coded(o.Code, o.Enhanced, o.Reply)
		}
	}
	return ""
}

// lostAnswers counts the attempts of the last hour whose answer was lost.
func (j *judge) lostAnswers(r *Relay) (n int64) {
	for _, o := range j.Outcomes {
		if o.Relay == r.Name && o.Class == smtpx.ClassAmbiguous {
			n += o.Attempts
		}
	}
	return n
}

// overdue reports whether something that is hit is due for longer than the limit.
func (j *judge) overdue(hit []Hit) bool {
	for _, h := range hit {
		i := slices.IndexFunc(j.Routes, func(r Route) bool { return r.Name == h.Route })
		if r := j.Routes[i]; r.Due > 0 && j.Now.Sub(r.OldestDue) > j.limits.Oldest {
			return true
		}
	}
	return false
}

// served reports whether any relay serves a route. Without any relay nothing is known.
func (j *judge) served(route string) bool {
	return len(j.Relays) == 0 || slices.ContainsFunc(j.Relays, func(r Relay) bool { return r.serves(route) })
}

// servedByAble reports whether a relay that takes mail now serves a route.
func (j *judge) servedByAble(route string) bool {
	return len(j.Relays) == 0 || slices.ContainsFunc(j.Relays, func(r Relay) bool { return r.able() && r.serves(route) })
}

// servedFreely reports whether a relay that takes mail now, and is not slowed down, serves a route.
func (j *judge) servedFreely(route string) bool {
	return len(j.Relays) == 0 || slices.ContainsFunc(j.Relays, func(r Relay) bool { return r.able() && r.PerSecond == 0 && r.serves(route) })
}

// nothingGoes reports whether something is due and no relay takes any of it.
func (j *judge) nothingGoes() bool {
	return j.due > 0 && !slices.ContainsFunc(j.Routes, func(r Route) bool { return r.Due > 0 && j.servedByAble(r.Name) })
}
