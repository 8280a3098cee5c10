package smtpx

import (
	"sync"
	"time"
)

// disbelieveFor is how long an extension is not used after its offer turned out false.
const disbelieveFor = 3 * 24 * time.Hour

// falseOffers are the extensions that a relay offers and does not do. All its connections share them.
type falseOffers struct {
	mu    sync.RWMutex
	until map[string]time.Time
}

func (f *falseOffers) has(keyword string) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	until, ok := f.until[keyword]
	return ok && time.Now().Before(until)
}

// add reports whether the extension was believed before.
func (f *falseOffers) add(keyword string) bool {
	if f.has(keyword) {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.until == nil {
		f.until = make(map[string]time.Time)
	}
	f.until[keyword] = time.Now().Add(disbelieveFor)
	return true
}

// EffectFalseOffer means that the relay offers an extension, Learned.Extension, and does not do it. The client goes on without
// it for three days; the parameter without= of the URL names it for good.
const EffectFalseOffer Effect = "false-offer"

// disbelieve stops using an extension because of a reply on connection c.
func (p *pool) disbelieve(c *conn, keyword string, r Reply) {
	if !p.relay.disbelieved.add(keyword) {
		return
	}
	p.mu.Lock()
	p.record(Learned{Effect: EffectFalseOffer, Extension: keyword, Reply: c.scrub(r)})
	p.mu.Unlock()
	p.report()
}

// announced tells whether the server offers an extension.
func (s *session) announced(keyword string) bool {
	_, ok := s.ext[keyword]
	return ok
}

// offers tells whether an extension is to be used: the server offers it, and its offer was not found to be false.
func (s *session) offers(keyword string) bool {
	return s.announced(keyword) && !s.relay.disbelieved.has(keyword)
}
