package dispatcher

import (
	"fmt"
	"slices"
	"time"
)

// Update changes the relays, even while the dispatcher runs. No delivery is lost or repeated:
//
//   - A relay that keeps its name and its Sender goes on under its new limits.
//   - A new relay begins.
//   - A relay that is gone, or has another Sender, begins nothing more and hands back what it has not begun. Its sends may finish,
//     and are cut off after Config.Grace.
//
// Update returns when the removed Senders are not used any more. They may be closed then. If the list is not valid, Update returns
// an error and changes nothing. Concurrent calls wait for one another. A hook or a Sender must not call Update.
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

// update gives the lanes their new configuration. It returns the lanes that the caller must close.
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
	e.progressed()
	return out
}
