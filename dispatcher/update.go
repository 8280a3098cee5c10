package dispatcher

import (
	"context"
	"fmt"
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
	d.Wake() // for what the new relays serve
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

// join makes an engine known: from now on Update changes it, too. It starts with the present relays.
func (d *Dispatcher) join(e *engine, work context.Context) { //nolint:revive // the context is that of the sends
	d.mu.Lock()
	defer d.mu.Unlock()
	d.engines[e] = struct{}{}
	e.start(work, d.cfg.Relays)
}

// leave makes an engine unknown: from now on Update leaves it alone.
func (d *Dispatcher) leave(e *engine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.engines, e)
}
