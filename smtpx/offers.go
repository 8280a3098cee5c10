package smtpx

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// disbelieveFor is how long an extension is not used after its offer turned out false.
const disbelieveFor = 3 * 24 * time.Hour

// falseOffers are the extensions that a relay offers but does not support. All its connections share them.
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

// EffectFalseOffer means that the relay offers an extension, Learned.Extension, but does not support it. The client does not use
// it for three days. To turn it off permanently, name it in the URL parameter without=.
const EffectFalseOffer Effect = "false-offer"

// disbelieve stops using an extension because of a reply on connection c. It reports whether the extension was used before.
func (p *pool) disbelieve(c *conn, keyword string, r Reply) bool {
	if !p.relay.disbelieved.add(keyword) {
		return false
	}
	p.mu.Lock()
	p.record(Learned{Effect: EffectFalseOffer, Extension: keyword, Reply: c.scrub(r)})
	p.mu.Unlock()
	p.report()
	return true
}

// falseOffer tells whether a refusal shows that the server does not support an extension that it offers: a flight of commands,
// or a parameter. The extension is then no longer used, and the message goes on another connection.
func (c *conn) falseOffer(t *transaction, stage Stage, r Reply) bool {
	if !dialogueFault(r) && r.Code != 554 || t.complete || t.stale || len(t.accepted) > 0 && stage == StageRcpt {
		return false
	}
	text := strings.ToLower(r.Text())
	names := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(text, w) })
	}
	var keywords []string
	switch {
	case names("pipelin", "synchroniz"):
		keywords = []string{"PIPELINING"}
	case stage == StageData || !dialogueFault(r):
		return false
	case r.Code != 555 && !names("param", "option", "argument", "size", "body", "envid", "notify", "ret=", "orcpt"):
		return false
	case stage == StageRcpt:
		keywords = []string{"DSN"}
	case names("size"):
		keywords = []string{"SIZE"}
	case names("body", "8bit"):
		keywords = []string{"8BITMIME"}
	default:
		keywords = []string{"SIZE", "8BITMIME", "DSN"}
	}
	changed := false
	for _, keyword := range keywords {
		if c.sends(t, keyword) {
			changed = c.pool.disbelieve(c, keyword, r) || changed
		}
	}
	if changed {
		c.cut()
		c.moveOn(t)
	}
	return changed
}

// sends tells whether a transaction uses an extension.
func (c *conn) sends(t *transaction, keyword string) bool {
	if !c.offers(keyword) {
		return false
	}
	switch keyword {
	case "8BITMIME":
		return t.job.body.bit8
	case "DSN":
		return t.job.env.DSN.asks()
	}
	return true
}

// announced tells whether the server offers an extension.
func (s *session) announced(keyword string) bool {
	_, ok := s.ext[keyword]
	return ok
}

// offers tells whether to use an extension: the server offers it, and its offer was not found to be false.
func (s *session) offers(keyword string) bool {
	return s.announced(keyword) && !s.relay.disbelieved.has(keyword)
}
