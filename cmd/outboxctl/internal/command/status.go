package command

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
	"github.com/outboxmail/outbox/doctor"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store"
)

type statusOptions struct {
	*app
	output output.Flags
}

// statusJSON is the JSON of `outboxctl status`.
type statusJSON struct {
	Database string        `json:"database"`
	At       time.Time     `json:"at"`
	Verdict  doctor.Level  `json:"verdict"`
	Problems []problemJSON `json:"problems"`
	Routes   []routeJSON   `json:"routes"`

	States map[outbox.State]int64 `json:"states"`
	// More names the terminal states of which only the newest deliveries were counted.
	More      []outbox.State `json:"more"`
	Counts    []countJSON    `json:"counts"`
	Due       int64          `json:"due"`
	Scheduled int64          `json:"scheduled"`
	Deferred  int64          `json:"deferred"`
	OldestDue time.Time      `json:"oldest_due,omitzero"`
	Paused    []pauseJSON    `json:"paused"`
	// Running counts the dispatchers that are alive.
	Running int `json:"running"`
	// Dispatchers lists the dispatchers that were seen within a day and did not shut down properly.
	Dispatchers []dispatcherJSON `json:"dispatchers"`
}

type problemJSON struct {
	Kind       doctor.Kind  `json:"kind"`
	Level      doctor.Level `json:"level"`
	Sentence   string       `json:"sentence"`
	Relay      string       `json:"relay,omitempty"`
	Route      string       `json:"route,omitempty"`
	Dispatcher string       `json:"dispatcher,omitempty"`
	Since      time.Time    `json:"since,omitzero"`
	Next       time.Time    `json:"next,omitzero"`
	Evidence   string       `json:"evidence,omitempty"`
	Command    string       `json:"command"`
	Hit        []hitJSON    `json:"hit,omitempty"`
}

type hitJSON struct {
	Route     string `json:"route"`
	Waiting   int64  `json:"waiting"`
	Uncertain int64  `json:"uncertain"`
	Expired   int64  `json:"expired"`
	Expiring  int64  `json:"expiring"`
}

// routeJSON is the state of a route now, and what ended on it in the last hour.
type routeJSON struct {
	Route     string                 `json:"route"`
	Due       int64                  `json:"due"`
	OldestDue time.Time              `json:"oldest_due,omitzero"`
	Scheduled int64                  `json:"scheduled"`
	Deferred  int64                  `json:"deferred"`
	Sending   int64                  `json:"sending"`
	Uncertain int64                  `json:"uncertain"`
	Held      int64                  `json:"held"`
	Expiring  int64                  `json:"expiring"`
	LastHour  map[outbox.State]int64 `json:"last_hour"`
	Relays    []string               `json:"relays"`
}

type countJSON struct {
	Route      string       `json:"route"`
	State      outbox.State `json:"state"`
	Deliveries int64        `json:"deliveries"`
}

type pauseJSON struct {
	Route  string    `json:"route"`
	Since  time.Time `json:"since"`
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
}

type dispatcherJSON struct {
	ID        string                       `json:"id"`
	Host      string                       `json:"host"`
	PID       int                          `json:"pid"`
	Version   string                       `json:"version,omitempty"`
	Alive     bool                         `json:"alive"`
	Relays    map[string]queue.RelayHealth `json:"relays,omitempty"`
	Faults    []queue.Fault                `json:"faults,omitempty"`
	StartedAt time.Time                    `json:"started_at"`
	SeenAt    time.Time                    `json:"seen_at"`
	SilentMS  int64                        `json:"silent_ms"`
}

func newStatus(a *app, runF func(context.Context, *statusOptions) error) *cobra.Command {
	opts := &statusOptions{app: a}
	if runF == nil {
		runF = statusRun
	}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what is wrong, what waits, and who delivers",
		Long: `Say what is wrong: the worst first, each with its cause, since when, whom it hits, and what to type next. Then show
what waits on each route, what ended in the last hour, and who delivers.

"Later" counts scheduled and deferred deliveries. "Via" names the relays that serve a route. A number with + was not
counted to the end. In a pipe, status is the same table; -o tsv has a row for each route and state.`,
		Example: "  outboxctl status\n  outboxctl status -o json",
		Args:    needs(0, 0, ""),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	opts.output.Piped = output.Table
	opts.output.Add(cmd, statusJSON{}, output.Table, output.JSON, output.NDJSON, output.TSV)
	return cmd
}

func statusRun(ctx context.Context, opts *statusOptions) (err error) {
	printer, err := opts.output.Printer(opts.io)
	if err != nil {
		return err
	}
	db, err := opts.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	p, err := look(ctx, db, opts.now)
	if err != nil {
		return err
	}
	d := doctor.Verdict(p.snapshot(), doctor.Limits{})
	return printer.Object(viewStatus(p, d), "", func(r *output.Rows) {
		if printer.Format() == output.TSV {
			r.Head("route", "state", "deliveries")
			for _, c := range p.stats.Counts {
				r.Add(output.Text(c.Route), output.Text(string(c.State)), output.Int(c.Deliveries))
			}
			return
		}
		showStatus(r, p, d)
	})
}

func viewStatus(p *picture, d doctor.Diagnosis) statusJSON {
	st := p.stats
	v := statusJSON{
		Database: p.database, At: p.overview.Now, Verdict: d.Level, Problems: []problemJSON{}, Routes: []routeJSON{}, More: []outbox.State{},
		States: map[outbox.State]int64{}, Counts: []countJSON{}, Paused: []pauseJSON{}, Dispatchers: []dispatcherJSON{},
		Due: st.Due, Scheduled: st.Scheduled, Deferred: st.Deferred, OldestDue: st.OldestDue,
	}
	for _, s := range outbox.States() {
		v.States[s] = 0
	}
	for _, c := range st.Counts {
		v.States[c.State] += c.Deliveries
		v.Counts = append(v.Counts, countJSON(c))
	}
	v.More = append(v.More, st.More...)
	for _, pause := range st.Paused {
		v.Paused = append(v.Paused, pauseJSON(pause))
	}
	for _, live := range p.dispatchers {
		alive := live.Silent <= silence
		if alive {
			v.Running++
		}
		v.Dispatchers = append(v.Dispatchers, dispatcherJSON{
			ID: live.ID, Host: live.Host, PID: live.PID, Version: live.Version, Alive: alive, Relays: live.Relays, Faults: live.Faults,
			StartedAt: live.StartedAt, SeenAt: live.SeenAt, SilentMS: live.Silent.Milliseconds(),
		})
	}
	for _, problem := range d.Problems {
		v.Problems = append(v.Problems, viewProblem(problem))
	}
	for _, r := range p.overview.Routes {
		v.Routes = append(v.Routes, routeJSON{
			Route: r.Route, Due: r.Due, OldestDue: r.OldestDue, Scheduled: r.Scheduled, Deferred: r.Deferred, Sending: r.Sending,
			Uncertain: r.Uncertain, Held: r.Held, Expiring: r.Expiring, LastHour: r.LastHour, Relays: p.via(r.Route),
		})
	}
	return v
}

func viewProblem(p doctor.Problem) problemJSON {
	v := problemJSON{
		Kind: p.Kind, Level: p.Level, Sentence: p.Sentence, Relay: p.Relay, Route: p.Route, Dispatcher: p.Dispatcher,
		Since: p.Since, Next: p.Next, Evidence: p.Evidence, Command: p.Command,
	}
	for _, h := range p.Hit {
		v.Hit = append(v.Hit, hitJSON(h))
	}
	return v
}

// silence is the time without a heartbeat after which a dispatcher counts as dead.
var silence = doctor.DefaultLimits().Silence

// describeDispatchers says in one line who lives and who is silent.
func describeDispatchers(list []store.Dispatcher) string {
	var alive, dead []string
	for _, d := range list {
		where := d.ID + " on " + d.Host
		if d.Silent <= silence {
			alive = append(alive, where+" ("+output.Duration(d.Silent)+" ago)")
		} else {
			dead = append(dead, where+" for "+output.Duration(d.Silent))
		}
	}
	words := "No dispatcher is running."
	if len(alive) > 0 {
		words = count(int64(len(alive)), "dispatcher", "dispatchers") + ": " + strings.Join(alive, ", ") + "."
	}
	if len(dead) > 0 {
		words += " Silent: " + strings.Join(dead, ", ") + "."
	}
	return words
}
