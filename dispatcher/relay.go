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

// Sender sends a message to a relay. *smtpx.Client is one. Send is called concurrently and must obey these rules:
//
//   - Result.Outcomes has one entry for each recipient.
//   - An error is or wraps a *smtpx.Error. After any other error the message is uncertain.
//   - Envelope.Commit is called before the final dot, as package smtpx says. If a Sender sends without it, a crash may bring
//     a second copy. The dispatcher logs an error then.
//
// A Sender may have a method Profile() *smtpx.Profile, which tells the provider. Messages then carry tags, metadata and an
// idempotency key in the header fields that this provider reads. Values that the provider does not take are cut, changed to '_'
// or left out. Every message gets the field X-Outbox-ID.
type Sender interface {
	Send(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error)
}

// Prober is a [Sender] that can check its relay without sending a message. *smtpx.Client is one. An offline relay is probed
// before it gets a message. If its Sender is no Prober, one message is sent as a trial.
type Prober interface {
	// Probe returns nil if the relay seems able to take a message now.
	Probe(ctx context.Context) (smtpx.Report, error)
}

// Relay is a server or provider that messages are sent through.
type Relay struct {
	// Name names the relay in the database, in logs and in commands: 1 to 63 letters, digits, '.', '_' and '-'. Required.
	Name string
	// Sender sends the messages. The caller closes it after Run has returned or [Dispatcher.Update] has removed it. Required.
	Sender Sender
	// Routes lists the routes that the relay serves. Relays that serve the same route share its messages by Weight. Defaults to
	// every route.
	Routes []string
	// Weight is the relay's share among the relays that serve a route. Of two relays with weights 3 and 1 the first sends three
	// quarters. A relay that cannot send leaves its share to the others; a degraded one leaves three quarters of it. Shares order
	// the work: a relay waits only for what the others can begin within 250 ms. So a slow relay does not slow a fast one, which then
	// sends more than its share. Defaults to 1.
	Weight int
	// Backup makes the relay serve a route only while no other relay that serves it can send. Defaults to false.
	Backup bool
	// Rate bounds how fast all dispatchers of the database together send to the relay. A relay that throttles is sent to more
	// slowly for a while, whatever its Rate. Defaults to no bound.
	Rate Rate
	// Concurrency is the number of messages that the relay is sent at once. Defaults to Config.Concurrency.
	Concurrency int
	// PerDomain is the number of those messages that may go to recipients of one domain. When messages beyond that number fill
	// the memory of the relay's queue, they are put back for a few seconds. A message to several domains that twenty others have
	// overtaken goes next. Defaults to no bound.
	PerDomain int
	// Sign signs every message as the last step before it is sent; see package dkim. Messages are not signed if the relay's
	// profile says that the provider breaks signatures; a warning is logged then. Defaults to none.
	Sign Signer
	// Fence selects the messages that are fenced before they are sent. Defaults to [FenceAll].
	Fence Fence
}

// Rate bounds how fast a relay is sent to; see [queue.Rate].
type Rate = queue.Rate

// Fence selects the messages for which the queue records, before the final dot, that the relay may have them. One write does so
// for many messages. After a crash, fenced messages are uncertain, and those that were left out.
type Fence string

// The values of Fence.
const (
	// FenceAll fences every message.
	FenceAll Fence = "all"
	// FenceHold fences only messages with [outbox.Hold]. After a crash, every other message that was claimed is uncertain. It is sent
	// again through the same relay. That brings more second copies, each with the same Message-ID. The dispatcher then goes by its own
	// clock to notice a lapsed lease. That clock stands still while the host is suspended.
	FenceHold Fence = "hold"
)

// checkRelays returns the list with defaults set, or says what is wrong with it.
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

// serves says whether the relay serves a route.
func (r *Relay) serves(route string) bool { return serves(r.Routes, route) }

// sameSender says whether two senders are the same one. Senders that cannot be compared count as different.
func sameSender(a, b Sender) bool {
	return reflect.TypeOf(a) == reflect.TypeOf(b) && reflect.TypeOf(a).Comparable() && a == b
}

// checkName checks the name of a relay or route.
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
