package dispatcher

import (
	"fmt"
	"slices"
	"time"
)

// Update changes the relays, also while the dispatcher runs, without losing or repeating a delivery. A relay that keeps its
// name and its Sender goes on with what it has under its new limits; one that is new begins; one that is gone, or has another
// Sender, begins nothing more, hands back what it has not begun, and has what it is sending finished or, after Grace, cut off
// as when Run stops. Update returns when the Senders that it took out are not used any more, so that they may be closed.
//
// A list that cannot be meant is refused, and nothing is changed. Calls wait for one another. A hook or a Sender must not call it.
func (d *Dispatcher) Update(relays []Relay) error {
	relays, err := checkRelays(relays, d.cfg.Concurrency)
	if err != nil {
		return fmt.Errorf("dispatcher: update: %w", err)
	}
	d.updating.Lock()
	defer d.updating.Unlock()

	d.mu.Lock()
	d.cfg.Relays = relays
	var out []*lane
	for e := range d.engines {
		out = append(out, e.update(relays)...)
	}
	d.mu.Unlock()
	for _, l := range out {
		l.close()
	}
	for _, l := range out {
		grace := time.AfterFunc(d.cfg.Grace, l.cut)
		<-l.finished
		grace.Stop()
		l.cut()
	}
	return nil
}

// update gives the lanes their new relays and returns those that are to be closed.
func (e *engine) update(relays []Relay) (out []*lane) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopping {
		return nil
	}
	var kept []*lane
	var fresh []Relay
	for _, r := range relays {
		i := slices.IndexFunc(e.lanes, func(l *lane) bool { return l.name == r.Name && sameSender(l.relay().Sender, r.Sender) })
		if i < 0 {
			fresh = append(fresh, r)
			continue
		}
		l := e.lanes[i]
		l.current.Store(&r)
		l.pace.resize(r.Concurrency)
		l.jobs.rebound()
		kept = append(kept, l)
	}
	for _, l := range e.lanes {
		if !slices.Contains(kept, l) {
			out = append(out, l)
		}
	}
	e.lanes = kept
	for _, r := range fresh {
		e.launch(newLane(e, r))
	}
	if !e.drain {
		e.Wake()
	}
	e.kicked()
	return out
}
