package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/iostreams"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store"
)

type statusOptions struct {
	*app
	output output.Flags
}

// statusJSON is the JSON of `outboxctl status`.
type statusJSON struct {
	States    map[outbox.State]int64 `json:"states"`
	Counts    []countJSON            `json:"counts"`
	Due       int64                  `json:"due"`
	Scheduled int64                  `json:"scheduled"`
	Deferred  int64                  `json:"deferred"`
	OldestDue time.Time              `json:"oldest_due,omitzero"`
	Paused    []pauseJSON            `json:"paused"`
	// Dispatchers lists the dispatchers that were seen within a day and did not shut down properly.
	Dispatchers []dispatcherJSON `json:"dispatchers"`
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
		Short: "Count the deliveries, and show who delivers",
		Long: `Count the deliveries by route and state. Show how many are due and since when, which routes are paused, and the
dispatchers.`,
		Example: "  outboxctl status\n  outboxctl status -o json",
		Args:    needs(0, 0, ""),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
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
	st, err := db.Store.Stats(ctx)
	if err != nil {
		return err
	}
	live, err := db.Store.Dispatchers(ctx)
	if err != nil {
		return err
	}
	return printer.Object(viewStatus(st, live), "", func(r *output.Rows) {
		if printer.Format() == output.TSV {
			for _, c := range st.Counts {
				r.Add(output.Text(c.Route), output.Text(string(c.State)), output.Int(c.Deliveries))
			}
			return
		}
		opts.showStatus(r, st)
		showDispatchers(r, live)
	})
}

func viewStatus(st store.Stats, live []store.Dispatcher) statusJSON {
	v := statusJSON{
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
	for _, p := range st.Paused {
		v.Paused = append(v.Paused, pauseJSON(p))
	}
	for _, d := range live {
		v.Dispatchers = append(v.Dispatchers, dispatcherJSON{
			ID: d.ID, Host: d.Host, PID: d.PID, Version: d.Version, Relays: d.Relays, Faults: d.Faults,
			StartedAt: d.StartedAt, SeenAt: d.SeenAt, SilentMS: d.Silent.Milliseconds(),
		})
	}
	return v
}

// showStatus writes a matrix of routes and states, then the sums and the pauses.
func (opts *statusOptions) showStatus(r *output.Rows, st store.Stats) {
	if len(st.Counts) == 0 {
		r.Add(output.Text("The outbox is empty."))
		return
	}
	states := []outbox.State{outbox.StateQueued, outbox.StateSending, outbox.StateSent, outbox.StateFailed} // always shown
	counts := map[string]map[outbox.State]int64{}
	var routes []string
	for _, c := range st.Counts {
		if counts[c.Route] == nil {
			counts[c.Route] = map[outbox.State]int64{}
			routes = append(routes, c.Route)
		}
		counts[c.Route][c.State] = c.Deliveries
		if !slices.Contains(states, c.State) {
			states = append(states, c.State)
		}
	}
	order := outbox.States()
	slices.SortFunc(states, func(a, b outbox.State) int { return slices.Index(order, a) - slices.Index(order, b) })
	columns := []output.Column{{Title: "ROUTE"}}
	for _, s := range states {
		columns = append(columns, output.Column{Title: string(s), Right: true})
	}
	r.Section("", columns...)
	for _, route := range routes {
		cells := []output.Cell{output.Text(route)}
		for _, s := range states {
			cell := output.Int(counts[route][s])
			if counts[route][s] > 0 {
				cell.Color = stateColor(s)
			}
			cells = append(cells, cell)
		}
		r.Add(cells...)
	}
	now := opts.now()
	r.Section("")
	r.Add(output.Text(""))
	waiting := fmt.Sprintf("%d due, %d scheduled, %d deferred", st.Due, st.Scheduled, st.Deferred)
	if st.Due > 0 && !st.OldestDue.IsZero() {
		waiting += "; the oldest is due since " + output.Relative(st.OldestDue, now)
	}
	r.Add(output.Text(waiting))
	for _, p := range st.Paused {
		reason := ""
		if p.Reason != "" {
			reason = ": " + p.Reason
		}
		r.Add(output.Text(fmt.Sprintf("route %s was paused %s by %s%s", p.Route, output.Relative(p.Since, now), p.By, reason)))
	}
}

// silence is the time without a heartbeat after which a dispatcher is probably dead.
const silence = time.Minute

// showDispatchers lists the dispatchers and marks the silent ones.
func showDispatchers(r *output.Rows, live []store.Dispatcher) {
	if len(live) == 0 {
		r.Add(output.Text("no dispatcher is running"))
		return
	}
	r.Section("Dispatchers", output.Column{Title: "ID", Shrink: true}, output.Column{Title: "HOST"}, output.Column{Title: "PID", Right: true},
		output.Column{Title: "SEEN"}, output.Column{Title: "RELAYS", Shrink: true})
	for _, d := range live {
		seen := output.Text(output.Duration(d.Silent) + " ago")
		if d.Silent > silence {
			seen.Color = iostreams.Red
		}
		relays := make([]string, 0, len(d.Relays))
		for _, name := range slices.Sorted(maps.Keys(d.Relays)) {
			words := name + " " + d.Relays[name].State
			if reason := d.Relays[name].Reason; reason != "" {
				words += ": " + reason
			}
			relays = append(relays, words)
		}
		r.Add(output.Text(d.ID), output.Text(d.Host), output.Int(d.PID), seen, output.Text(strings.Join(relays, ", ")))
	}
}
