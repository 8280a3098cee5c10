package command

import (
	"context"
	"slices"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/connect"
	"github.com/outboxmail/outbox/doctor"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/store"
)

// picture is all that status reads from a database.
type picture struct {
	database    string // its name, without a password
	here        time.Time
	latency     time.Duration
	overview    store.Overview
	stats       store.Stats
	dispatchers []store.Dispatcher
	relays      []queue.RelayState
}

// look reads the state of a database.
func look(ctx context.Context, db *connect.Database, now func() time.Time) (*picture, error) {
	p := &picture{database: db.Name}
	var err error
	began := now()
	if p.relays, err = db.Store.RelayStates(ctx); err != nil {
		return nil, err
	}
	p.latency = now().Sub(began)
	if p.overview, err = db.Store.Overview(ctx, doctor.DefaultLimits().Soon); err != nil {
		return nil, err
	}
	p.here = now()
	if p.stats, err = db.Store.Stats(ctx); err != nil {
		return nil, err
	}
	p.dispatchers, err = db.Store.Dispatchers(ctx)
	return p, err
}

// snapshot returns what the verdict judges.
func (p *picture) snapshot() doctor.Snapshot {
	s := doctor.Snapshot{
		Now: p.overview.Now,
		Database: doctor.Database{
			Latency: p.latency, ClockOff: p.here.Sub(p.overview.Now), Lapsed: p.overview.Lapsed, OldestLapse: p.overview.OldestLapse,
		},
		Relays: p.health(),
	}
	for _, d := range p.dispatchers {
		view := doctor.Dispatcher{ID: d.ID, Host: d.Host, Version: d.Version, SeenAt: d.SeenAt, Silent: d.Silent}
		for _, f := range d.Faults {
			if f.Kind != unservedFault { // the verdict finds it by itself
				view.Faults = append(view.Faults, doctor.Fault{Kind: f.Kind, Reason: f.Error, Since: f.Since})
			}
		}
		s.Dispatchers = append(s.Dispatchers, view)
	}
	for _, m := range p.stats.Minutes {
		s.Finished += m.Sent + m.Unsent
	}
	for _, o := range p.overview.Outcomes {
		s.Outcomes = append(s.Outcomes, doctor.Outcome{
			Relay: o.Relay, Class: smtpx.Class(o.Class), Code: o.Code, Enhanced: o.Enhanced, Reply: o.Reply, Attempts: o.Deliveries,
		})
	}
	for _, r := range p.overview.Routes {
		s.Routes = append(s.Routes, doctor.Route{
			Name: r.Route, Due: r.Due, Scheduled: r.Scheduled, Deferred: r.Deferred, OldestDue: r.OldestDue, Sending: r.Sending,
			Uncertain: r.Uncertain, Held: r.Held, OldestHeld: r.OldestHeld, Expiring: r.Expiring, Enqueued: r.Enqueued,
			LastHour: doctor.Ended{
				Sent: r.LastHour[outbox.StateSent], Failed: r.LastHour[outbox.StateFailed], Expired: r.LastHour[outbox.StateExpired],
				Cancelled: r.LastHour[outbox.StateCancelled], Suppressed: r.LastHour[outbox.StateSuppressed],
			},
		})
	}
	for _, pause := range p.stats.Paused {
		i := slices.IndexFunc(s.Routes, func(r doctor.Route) bool { return r.Name == pause.Route })
		if i < 0 {
			i = len(s.Routes)
			s.Routes = append(s.Routes, doctor.Route{Name: pause.Route})
		}
		r := &s.Routes[i]
		r.Paused, r.PausedSince, r.PausedBy, r.PauseReason = true, pause.Since, pause.By, pause.Reason
	}
	return s
}

// unservedFault is the kind of fault with which a dispatcher reports a route that no relay serves.
const unservedFault = "route_unserved"

// health merges what the living dispatchers say of each relay: the worst counts. Pauses of operators come from the database.
func (p *picture) health() []doctor.Relay {
	var list []doctor.Relay
	for _, d := range p.dispatchers {
		if d.Silent > silence {
			continue
		}
		for name, h := range d.Relays {
			r := doctor.Relay{
				Name: name, State: h.State, Class: smtpx.Class(h.Class), Code: h.Code, Reason: h.Reason, Since: h.Since, NextTry: h.NextTry,
				Routes: h.Routes, PerSecond: h.PerSecond,
			}
			i := slices.IndexFunc(list, func(other doctor.Relay) bool { return other.Name == name })
			switch {
			case i < 0:
				list = append(list, r)
			case severity(r.State) > severity(list[i].State):
				r.Routes = joined(r.Routes, list[i].Routes)
				list[i] = r
			default:
				list[i].Routes = joined(list[i].Routes, r.Routes)
			}
		}
	}
	for _, state := range p.relays {
		i := slices.IndexFunc(list, func(r doctor.Relay) bool { return r.Name == state.Name })
		if i >= 0 && state.Paused > 0 {
			list[i].State, list[i].PausedBy, list[i].Reason, list[i].Since = "paused", state.By, state.Reason, state.Since
			list[i].NextTry = p.overview.Now.Add(state.Paused)
		}
	}
	slices.SortFunc(list, func(a, b doctor.Relay) int { return compareNames(a.Name, b.Name) })
	return list
}

// joined returns the routes of both. No routes means every route.
func joined(a, b []string) []string {
	if len(a) == 0 || len(b) == 0 {
		return nil
	}
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// severity orders the states of a relay.
func severity(state string) int {
	return slices.Index([]string{"unused", "healthy", "trial", "degraded", "paused", "offline"}, state)
}

// via names the relays that serve a route.
func (p *picture) via(route string) []string {
	names := []string{}
	for _, r := range p.health() {
		if len(r.Routes) == 0 || slices.Contains(r.Routes, route) {
			names = append(names, r.Name)
		}
	}
	return names
}

func compareNames(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}
