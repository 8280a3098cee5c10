package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// Sender hands a message to a relay. *smtpx.Client is one. Result.Outcomes must have one entry for each recipient, and
// an error must be or wrap a *smtpx.Error; of anything else the dispatcher cannot know whether the message was accepted,
// and treats it as uncertain. Envelope.Commit must be called as package smtpx says: where a Sender sends without it, a crash of the
// database may bring another copy, and the dispatcher logs an error. Send is called concurrently.
//
// A Sender with a method Profile() *smtpx.Profile says by it which provider is behind it. Messages then get tags, metadata and
// an idempotency key in the header fields that the provider reads, beside X-Outbox-ID, which all of them get. What is too long
// for the provider, or has letters that it does not take, is cut, replaced by '_' or left out.
type Sender interface {
	Send(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error)
}

// Prober is a [Sender] that can look whether its relay works without sending a message. *smtpx.Client is one. A relay that is
// offline is probed before it is given a message again; a Sender that cannot probe is given one to try.
type Prober interface {
	// Probe returns nil when a message could be sent now as far as can be seen.
	Probe(ctx context.Context) (smtpx.Report, error)
}

// Relay is a way out.
type Relay struct {
	// Name is how the relay is called in the database, logs and commands: letters, digits, '.', '_' and '-', up to 63.
	Name string
	// Sender sends. It stays the caller's to close, after Run has returned or [Dispatcher.Update] has taken it out.
	Sender Sender
	// Routes are those that the relay serves. Defaults to every route. Relays that serve the same route share its messages
	// by Weight.
	Routes []string
	// Weight is the relay's share of the messages of a route beside those of the other relays that serve it: of two with 3
	// and 1 the first sends three quarters. A relay that cannot send gives its share to the others, one that is degraded
	// three quarters of it. The shares hold under load too, so that relays of very different speed wait for the slowest,
	// unless it finishes nothing for two seconds: give a slow one a small weight, or routes of its own. Defaults to 1.
	Weight int
	// Backup keeps the relay out of a route for as long as a relay that is no backup serves it and can send. Defaults to
	// false.
	Backup bool
	// Rate bounds how fast the relay is sent to, by all dispatchers of the database together. Defaults to no bound. Below it
	// a relay that throttles is sent to more slowly for a while, whatever the bound.
	Rate Rate
	// Concurrency is how many messages the relay is sent at once. Defaults to Config.Concurrency.
	Concurrency int
	// PerDomain is how many of those may go to recipients of one domain. Messages beyond that which crowd the lane are put
	// back for a few seconds. For one to several domains that was passed over twenty times a place is kept in each of them.
	// Defaults to no bound.
	PerDomain int
	// Sign signs every message that goes to the relay, as the last thing before it is sent; see package dkim. It is left out, with
	// a warning, where the relay's profile says that the provider breaks signatures or replaces what they cover. Defaults to none.
	Sign Signer
	// Fence says for which messages the point of no return is recorded before it is passed. Defaults to [FenceAll].
	Fence Fence
}

// Rate bounds how fast a relay is sent to; see [queue.Rate].
type Rate = queue.Rate

// Fence says for which messages the point of no return is recorded in the queue before it is passed. The record is one
// write for many messages, and what it buys is knowledge: when a dispatcher dies, only what it had recorded is uncertain.
type Fence string

// The fences.
const (
	// FenceAll records it for every message.
	FenceAll Fence = "all"
	// FenceHold records it for messages with [outbox.Hold] only. What else a dispatcher was sending when it died is sent again,
	// whether or not it had got so far: there are more second copies, each with the same Message-ID. A lease that has lapsed
	// is recognised by the dispatcher's own clock then, not by the database, and not after the host was suspended.
	FenceHold Fence = "hold"
)

// checkRelays completes a list of relays, or says what is wrong with it.
func checkRelays(list []Relay, concurrency int) ([]Relay, error) {
	if len(list) == 0 {
		return nil, errors.New("no relay given")
	}
	list = slices.Clone(list)
	names := make(map[string]bool)
	for i := range list {
		r := &list[i]
		if err := checkName(r.Name); err != nil {
			return nil, fmt.Errorf("relay %d: name: %w", i+1, err)
		}
		if names[r.Name] {
			return nil, fmt.Errorf("two relays are named %q", r.Name)
		}
		names[r.Name] = true
		if err := r.complete(concurrency); err != nil {
			return nil, fmt.Errorf("relay %s: %w", r.Name, err)
		}
	}
	return list, nil
}

func (r *Relay) complete(concurrency int) error {
	switch {
	case r.Sender == nil:
		return errors.New("no sender given")
	case r.Rate.PerSecond < 0 || r.Rate.Burst < 0:
		return errors.New("rate: must not be negative")
	case r.Weight < 0:
		return fmt.Errorf("weight: %d is negative", r.Weight)
	case r.Concurrency < 0:
		return fmt.Errorf("concurrency: %d is negative", r.Concurrency)
	case r.PerDomain < 0:
		return fmt.Errorf("per domain: %d is negative", r.PerDomain)
	}
	switch r.Fence {
	case "":
		r.Fence = FenceAll
	case FenceAll, FenceHold:
	default:
		return fmt.Errorf("fence: %q is not known: use %s or %s", r.Fence, FenceAll, FenceHold)
	}
	r.Weight = orDefault(r.Weight, 1)
	r.Concurrency = orDefault(r.Concurrency, concurrency)
	r.Routes = slices.Clone(r.Routes)
	for _, route := range r.Routes {
		if err := checkName(route); err != nil {
			return fmt.Errorf("route: %w", err)
		}
	}
	return nil
}

// serves says whether the relay takes messages of a route.
func (r *Relay) serves(route string) bool {
	return len(r.Routes) == 0 || slices.Contains(r.Routes, route)
}

// shares says whether some route is served by both.
func (r *Relay) shares(other *Relay) bool {
	return len(r.Routes) == 0 || len(other.Routes) == 0 || slices.ContainsFunc(r.Routes, other.serves)
}

// sameSender says whether two relays send through the same client, as far as that can be told.
func sameSender(a, b Sender) bool {
	return reflect.TypeOf(a) == reflect.TypeOf(b) && reflect.TypeOf(a).Comparable() && a == b
}

// checkName takes what a relay or route may be called.
func checkName(name string) error {
	if name == "" || len(name) > 63 {
		return fmt.Errorf("%q must have 1 to 63 characters", name)
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r) {
			return fmt.Errorf("%q has the character %q: use letters, digits, '.', '_' and '-'", name, r)
		}
	}
	return nil
}
