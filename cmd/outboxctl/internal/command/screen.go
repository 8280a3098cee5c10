package command

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/iostreams"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
	"github.com/outboxmail/outbox/doctor"
	"github.com/outboxmail/outbox/store"
)

// showStatus writes the verdict, the problems, the routes, and who delivers.
func showStatus(r *output.Rows, p *picture, d doctor.Diagnosis) {
	r.Ends(p.database, p.overview.Now.UTC().Format("15:04:05 MST"))
	r.Line(output.Cell{Text: string(d.Level), Color: levelColor(d.Level)})
	for _, problem := range d.Problems {
		showProblem(r, problem, p.overview.Now)
	}
	if len(p.stats.Counts) == 0 {
		r.Line(output.Text(""))
		r.Line(output.Text("The outbox is empty."))
	} else {
		showRoutes(r, p)
	}
	r.Line(output.Text(""))
	r.Wrapped("", describeDispatchers(p.dispatchers))
	if totals := describeTotals(p); totals != "" {
		r.Wrapped("", totals)
	}
}

func levelColor(l doctor.Level) iostreams.Color {
	switch l {
	case doctor.Stalled:
		return iostreams.Red
	case doctor.Degraded:
		return iostreams.Yellow
	default:
		return iostreams.Bold
	}
}

// showProblem writes a problem: its sentence and since when, the evidence, who is hit, and what to type.
func showProblem(r *output.Rows, p doctor.Problem, now time.Time) {
	const indent = "   "
	mark := iostreams.Red // a person is needed
	if p.Level != doctor.Stalled && !p.Next.IsZero() {
		mark = iostreams.Yellow // it mends itself
	}
	r.Line(output.Text(""))
	sentence := p.Sentence
	if !p.Since.IsZero() {
		sentence += " Since " + moment(p.Since, now) + "."
	}
	glyph := " ! "
	if p.Level == doctor.Stalled {
		glyph = " ✗ "
	}
	r.Marked(glyph, mark, sentence)
	if p.Evidence != "" {
		r.Line(output.Text(indent + p.Evidence))
	}
	if hit := describeHits(p.Hit); hit != "" {
		r.Wrapped(indent, hit)
	}
	if p.Next.After(now) {
		r.Line(output.Text(indent + "next try " + output.Relative(p.Next, now)))
	}
	r.Line(output.Cell{Text: indent + "→ " + p.Command, Color: iostreams.Bold})
}

// moment says when something began: the time of day and how long ago.
func moment(t, now time.Time) string {
	layout := "15:04"
	if now.Sub(t) > 20*time.Hour {
		layout = "2 Jan 15:04"
	}
	return t.UTC().Format(layout) + " (" + output.Duration(max(0, now.Sub(t))) + ")"
}

// mostHits is how many routes a problem names.
const mostHits = 4

// describeHits says what a problem does to each route.
func describeHits(list []doctor.Hit) string {
	var words []string
	for i, h := range list {
		if i == mostHits && len(list) > mostHits+1 {
			words = append(words, fmt.Sprintf("%d other routes", len(list)-mostHits))
			break
		}
		var parts []string
		for _, part := range []struct {
			n    int64
			text string
		}{{h.Waiting, "wait"}, {h.Uncertain, "uncertain"}, {h.Expired, "expired this hour"}, {h.Expiring, "expire soon"}} {
			if part.n > 0 {
				parts = append(parts, grouped(part.n)+" "+part.text)
			}
		}
		words = append(words, h.Route+": "+strings.Join(parts, ", "))
	}
	return strings.Join(words, "; ")
}

// showRoutes writes a row for each route with something to tell.
func showRoutes(r *output.Rows, p *picture) {
	if len(p.overview.Routes) == 0 {
		return
	}
	r.Line(output.Text(""))
	r.Section("", output.Column{Title: "ROUTE", Shrink: true}, output.Column{Title: "DUE", Right: true},
		output.Column{Title: "OLDEST", Right: true},
		output.Column{Title: "LATER", Right: true}, output.Column{Title: "SENDING", Right: true}, output.Column{Title: "DOUBT", Right: true},
		output.Column{Title: "HELD", Right: true}, output.Column{Title: "LAST HOUR", Shrink: true}, output.Column{Title: "VIA", Shrink: true})
	for _, route := range p.overview.Routes {
		oldest := dot
		if route.Due > 0 && !route.OldestDue.IsZero() {
			oldest = output.Text(output.Duration(max(0, p.overview.Now.Sub(route.OldestDue))))
		}
		via := "–"
		if names := p.via(route.Route); len(names) > 0 {
			via = strings.Join(names, ",")
		}
		if slices.ContainsFunc(p.stats.Paused, func(pause store.Pause) bool { return pause.Route == route.Route }) {
			via = "paused"
		}
		r.Add(output.Text(route.Route), figure(route.Due), oldest, figure(route.Scheduled+route.Deferred), figure(route.Sending),
			figure(route.Uncertain), figure(route.Held), output.Text(describeHour(route.LastHour, p.overview.More)), output.Text(via))
	}
	r.Section("")
}

// dot stands for nothing, so that the eye finds what there is.
var dot = output.Cell{Text: "·", Color: iostreams.Dim}

func figure(n int64) output.Cell {
	if n == 0 {
		return dot
	}
	return output.Text(grouped(n))
}

// describeHour says what ended in the last hour.
func describeHour(ended map[outbox.State]int64, more bool) string {
	var words []string
	for _, state := range outbox.States() {
		n := ended[state]
		if n == 0 {
			continue
		}
		figure := grouped(n)
		if more {
			figure += "+"
		}
		words = append(words, figure+" "+string(state))
	}
	if len(words) == 0 {
		return "·"
	}
	return strings.Join(words, ", ")
}

// describeTotals counts what has ended since ever. A state that was not counted to its end has a +.
func describeTotals(p *picture) string {
	sums := map[outbox.State]int64{}
	for _, c := range p.stats.Counts {
		sums[c.State] += c.Deliveries
	}
	var words []string
	for _, state := range outbox.States() {
		if !state.Terminal() || sums[state] == 0 {
			continue
		}
		text := grouped(sums[state])
		if slices.Contains(p.stats.More, state) {
			text += "+"
		}
		words = append(words, text+" "+string(state))
	}
	if len(words) == 0 {
		return ""
	}
	five := int64(0)
	for _, m := range p.stats.Minutes {
		five += m.Sent + m.Unsent
	}
	return "Finished in five minutes: " + grouped(five) + ". Kept: " + strings.Join(words, ", ") + "."
}
