package dispatcher

// Report counts deliveries by what a [Dispatcher.Flush] did with them.
type Report struct {
	// Sent counts deliveries that a relay accepted.
	Sent int
	// Deferred counts those that were put back for later. Recycled counts those that were put back to be sent at once.
	Deferred, Recycled int
	// Failed counts those that were given up.
	Failed int
	// Uncertain counts those that a relay may or may not have accepted.
	Uncertain int
	// Held counts those that were set aside for an operator. Expired counts those that reached their deadline.
	Held, Expired int
	// Lost counts those whose lease had lapsed before their outcome was recorded.
	Lost int
}

// Attempted returns the number of deliveries that were settled or lost.
func (r Report) Attempted() int {
	return r.Sent + r.Deferred + r.Recycled + r.Failed + r.Uncertain + r.Held + r.Expired + r.Lost
}
