package doctor

import (
	"fmt"
	"slices"
	"strings"
)

// dispatchers judges who delivers.
func (j *judge) dispatchers() {
	if len(j.alive) == 0 {
		j.nobody()
		return
	}
	for _, d := range j.Dispatchers {
		if d.Silent > j.limits.Silence {
			j.add(Problem{
				Kind: KindSilent, Dispatcher: d.ID, Since: d.SeenAt,
				Sentence: fmt.Sprintf("Dispatcher %s on %s is silent for %s; %s.", d.ID, d.Host, span(d.Silent), others(len(j.alive))),
				Command:  "start it again on " + d.Host + ", or remove it there for good",
			})
		}
	}
	for _, d := range j.alive {
		for _, f := range d.Faults {
			j.add(Problem{
				Kind: KindFault, Dispatcher: d.ID, Since: f.Since, Evidence: f.Reason,
				Sentence: fmt.Sprintf("Dispatcher %s on %s reports a fault: %s.", d.ID, d.Host, strings.ReplaceAll(f.Kind, "_", " ")),
				Command:  "read the log of " + d.Host,
			})
		}
	}
	j.versions()
	j.advance()
}

// nobody judges an outbox without a living dispatcher.
func (j *judge) nobody() {
	p := Problem{Kind: KindNoDispatcher, Command: "outboxctl run, or start your application", Hit: j.hit(everyRoute)}
	if j.due > 0 {
		p.Level = Stalled
	}
	if len(j.Dispatchers) == 0 {
		p.Sentence = "No dispatcher is running."
		if j.due > 0 {
			p.Sentence = "Nothing is being delivered: no dispatcher is running."
			p.Since = j.oldestDue()
		}
		j.add(p)
		return
	}
	last := slices.MinFunc(j.Dispatchers, func(a, b Dispatcher) int { return int(a.Silent - b.Silent) })
	p.Kind, p.Since, p.Dispatcher = KindAllSilent, last.SeenAt, last.ID
	p.Sentence = fmt.Sprintf("No dispatcher for %s: %s on %s was last.", span(last.Silent), last.ID, last.Host)
	if j.due > 0 {
		p.Sentence = fmt.Sprintf("Nothing is being delivered: no dispatcher for %s (%s on %s was last).", span(last.Silent), last.ID, last.Host)
	}
	j.add(p)
}

func others(n int) string {
	if n == 1 {
		return "one other goes on"
	}
	return fmt.Sprintf("%d others go on", n)
}

// versions judges whether all dispatchers run the same program.
func (j *judge) versions() {
	var names []string
	for _, d := range j.alive {
		if d.Version != "" && !slices.Contains(names, d.Version) {
			names = append(names, d.Version)
		}
	}
	if len(names) < 2 {
		return
	}
	slices.Sort(names)
	j.add(Problem{
		Kind: KindVersions, Sentence: "The dispatchers have different versions: " + strings.Join(names, " and ") + ".",
		Command: "finish the deployment",
	})
}

// stillness is how long mail may be due while nothing at all ends.
const stillness = 5 // minutes

// advance judges whether living dispatchers also deliver, when no relay and no pause is to blame.
func (j *judge) advance() {
	if j.Finished > 0 || j.due == 0 {
		return
	}
	hit := j.hit(func(r *Route) bool { return r.Due > 0 && !r.Paused && j.servedFreely(r.Name) })
	if len(hit) == 0 || j.oldestDue().IsZero() || j.Now.Sub(j.oldestDue()).Minutes() < stillness {
		return
	}
	for _, r := range j.Routes {
		if r.Sending > 0 {
			return // a slow relay
		}
	}
	j.add(Problem{
		Kind: KindNotAdvancing, Level: Stalled, Since: j.oldestDue(), Hit: hit,
		Sentence: "The dispatchers run and deliver nothing, although relays are ready.",
		Command:  "read the logs of the dispatchers for the word error",
	})
}
