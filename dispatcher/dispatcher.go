// Package dispatcher delivers what a queue holds: it claims deliveries that are due, sends them through relays, and records
// what became of each.
//
// What it promises rests on the queue's leases (see package store) and on one write between claim and send:
//
//   - A delivery is sent only while its lease holds. Before the final dot of a message may leave, its deliveries are marked
//     as past the point of no return, under their token and lease; where that fails, the message is not sent.
//   - An outcome is recorded under the same token. Recording does not stop with the context and is retried while the
//     database is away; leases are renewed until it is done.
//   - When the process dies, leases lapse: what was not past that point is sent again, what was is uncertain and follows
//     the message's [outbox.UncertainPolicy]. With [outbox.Hold] nothing is ever sent twice by itself.
//   - Refusals keep the relay's own words. A refusal of the message counts as an attempt; an outage, throttling or a
//     configuration that an operator must mend does not.
//
// In use: [New] checks a [Config], [Dispatcher.Run] works until its context ends and then stops cleanly, [Dispatcher.Flush]
// delivers what is due and returns. Any number of dispatchers, in one process or in many, may share a queue.
package dispatcher

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/smtpx"
)

// Queue is where deliveries wait. *store.Store is one; its methods say what each of these promises. All of them are called
// concurrently.
type Queue interface {
	// Due lists what is queued on the routes, or on every route when none is given, without writing.
	Due(ctx context.Context, routes []string) ([]outbox.Due, error)
	// Claim leases deliveries that are due.
	Claim(ctx context.Context, req outbox.ClaimRequest) ([]outbox.Claimed, error)
	// Body returns a rendered message that was too large to come with its claim.
	Body(ctx context.Context, id outbox.ID) ([]byte, error)
	// CommitStage marks deliveries as past the point of no return and returns those whose lease is lost.
	CommitStage(ctx context.Context, refs []outbox.Ref) (lost []outbox.Ref, err error)
	// Renew extends leases and returns those that are lost.
	Renew(ctx context.Context, refs []outbox.Ref, lease time.Duration) (lost []outbox.Ref, err error)
	// Settle records outcomes and returns those whose lease is lost, for which it changed nothing.
	Settle(ctx context.Context, owner string, list []outbox.Settlement) (lost []outbox.Ref, err error)
	// Reap takes back what lapsed, resends what is uncertain where the message asks for it, and expires the overdue.
	Reap(ctx context.Context) (outbox.ReapReport, error)
}

// Sender hands a message to a relay. *smtpx.Client is one. Result.Outcomes must have one entry for each recipient, and
// an error must be or wrap a *smtpx.Error; of anything else the dispatcher cannot know whether the message was accepted,
// and treats it as uncertain. Envelope.Commit must be called as package smtpx says. Send is called concurrently.
//
// A Sender with a method Profile() *smtpx.Profile says by it which provider is behind it. Messages then get tags, metadata and
// an idempotency key in the header fields that the provider reads, beside X-Outbox-ID, which all of them get. What is too long
// for the provider, or has letters that it does not take, is cut, replaced by '_' or left out.
type Sender interface {
	Send(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error)
}

// Relay is a way out.
type Relay struct {
	// Name is how the relay is called in the database, logs and commands: letters, digits, '.', '_' and '-', up to 63.
	Name string
	// Sender sends. It stays the caller's to close, after Run has returned.
	Sender Sender
	// Routes are those that the relay serves. Defaults to every route. Relays that serve the same route take turns.
	Routes []string
	// Rate bounds how fast the relay is sent to, by all dispatchers of the database together. Defaults to no bound.
	Rate outbox.Rate
	// Sign signs every message that goes to the relay, as the last thing before it is sent; see package dkim. It is left out, with
	// a warning, where the relay's profile says that the provider breaks signatures or replaces what they cover. Defaults to none.
	Sign Signer
}

// Config says what a [Dispatcher] works with. Queue and Relays must be given; the rest has defaults.
type Config struct {
	// Queue holds the deliveries.
	Queue Queue
	// Relays are the ways out, at least one.
	Relays []Relay
	// Name is the owner of the leases, unique among the dispatchers of a queue. Defaults to host, process id and a random
	// part.
	Name string
	// Concurrency is how many messages each relay is sent at once. Defaults to 10. A smtpx.Client with fewer connections
	// than this makes the rest wait.
	Concurrency int
	// Poll is how often the queue is looked at when nothing else wakes the dispatcher. Defaults to 1 s. It is also woken
	// by Wake, by Watch, and when something it saw becomes due.
	Poll time.Duration
	// Watch, when set, calls wake whenever the queue may have changed, until ctx ends, or returns an error. Run calls it again
	// after an error, and polls meanwhile. See the functions Watch of store/sqlite and store/postgres. Defaults to none.
	Watch func(ctx context.Context, wake func()) error
	// Lease is how long a claim holds without being renewed, which happens three times as often. A dispatcher that died
	// or was cut off is replaced after this time. Defaults to 60 s; at least 1 s.
	Lease time.Duration
	// Grace is how long messages that are being sent may go on when Run's context ends, before they are cut off. One whose
	// final dot has left is never cut off: Run waits for the relay's answer or the client's time limit. Defaults to 30 s.
	Grace time.Duration
	// MaxAge is how long after it was due a message is given up, at its next failure. Defaults to 5 days (RFC 5321 §4.5.4.1).
	MaxAge time.Duration
	// Retry says when a failed attempt is repeated. Defaults to Backoff{}.
	Retry RetryPolicy
	// Retention says how long what is finished is kept; Run removes the rest every minute. The queue must be a [Cleaner] then.
	// Defaults to keeping everything.
	Retention outbox.Retention
	// Keys open the bodies that are encrypted at rest. One that they do not open is held, with a reason that names the key: add
	// the key and release it. Defaults to none.
	Keys *outbox.KeyRing
	// Logger gets an event for every outcome, without addresses or subjects. Defaults to slog.Default().
	Logger *slog.Logger
}

// The defaults of [Config], and what bounds memory.
const (
	defaultConcurrency = 10
	defaultPoll        = time.Second
	defaultLease       = time.Minute
	defaultGrace       = 30 * time.Second
	defaultMaxAge      = 5 * 24 * time.Hour

	minLease = time.Second
	// prefetch is how many messages a relay may hold for each that it sends at once, so that one claim serves many.
	prefetch = 4
	// inlineBytes is the largest body that waits in memory for its turn.
	inlineBytes = 64 << 10
)

// ErrRunning is returned by Run while another Run of the same Dispatcher goes on.
var ErrRunning = errors.New("dispatcher: already running")

// Dispatcher moves deliveries from a queue to relays. Its methods may be called concurrently.
type Dispatcher struct {
	cfg     Config
	wake    chan struct{}
	running atomic.Bool
}

// New checks the configuration and returns a Dispatcher. It starts nothing and touches neither queue nor relays.
func New(cfg Config) (*Dispatcher, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("dispatcher: %w", err)
	}
	return &Dispatcher{cfg: cfg, wake: make(chan struct{}, 1)}, nil
}

// complete checks the configuration and fills in what was left out.
func (c *Config) complete() error {
	if c.Queue == nil {
		return errors.New("no queue given")
	}
	if len(c.Relays) == 0 {
		return errors.New("no relay given")
	}
	c.Relays = slices.Clone(c.Relays)
	names := make(map[string]bool)
	for i := range c.Relays {
		r := &c.Relays[i]
		if err := checkName(r.Name); err != nil {
			return fmt.Errorf("relay %d: name: %w", i+1, err)
		}
		if names[r.Name] {
			return fmt.Errorf("two relays are named %q", r.Name)
		}
		names[r.Name] = true
		if r.Sender == nil {
			return fmt.Errorf("relay %s: no sender given", r.Name)
		}
		if r.Rate.PerSecond < 0 || r.Rate.Burst < 0 {
			return fmt.Errorf("relay %s: rate: must not be negative", r.Name)
		}
		r.Routes = slices.Clone(r.Routes)
		for _, route := range r.Routes {
			if err := checkName(route); err != nil {
				return fmt.Errorf("relay %s: route: %w", r.Name, err)
			}
		}
	}
	if c.Concurrency < 0 {
		return fmt.Errorf("concurrency: %d is negative", c.Concurrency)
	}
	if c.Concurrency == 0 {
		c.Concurrency = defaultConcurrency
	}
	for _, d := range []struct {
		name     string
		value    *time.Duration
		standard time.Duration
	}{
		{"poll", &c.Poll, defaultPoll},
		{"lease", &c.Lease, defaultLease},
		{"grace", &c.Grace, defaultGrace},
		{"max age", &c.MaxAge, defaultMaxAge},
	} {
		if *d.value < 0 {
			return fmt.Errorf("%s: %v is negative", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	if c.Lease < minLease {
		return fmt.Errorf("lease: %v is shorter than %v", c.Lease, minLease)
	}
	if c.Name == "" {
		c.Name = processName()
	}
	if c.Retry == nil {
		c.Retry = Backoff{}
	}
	if b, ok := c.Retry.(Backoff); ok {
		if err := b.check(); err != nil {
			return fmt.Errorf("retry: %w", err)
		}
	}
	if c.Retention.Sent < 0 || c.Retention.Unsent < 0 || c.Retention.Body < 0 {
		return errors.New("retention: must not be negative")
	}
	if _, ok := c.Queue.(Cleaner); !ok && c.Retention != (outbox.Retention{}) {
		return fmt.Errorf("retention: a queue of type %T cannot clean", c.Queue)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return nil
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

// processName tells the dispatchers of a fleet apart.
func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s:%d:%s", host, os.Getpid(), rand.Text()[:8])
}

// Wake has the dispatcher look at its queue at once. It never blocks; several calls may be folded into one. Call it after
// a transaction that enqueued has committed.
func (d *Dispatcher) Wake() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Run delivers until ctx ends, and then stops: it claims no more, hands back what it has not begun, lets what is being sent
// go on for Grace, records every outcome, and returns nil. While the database is away it waits and tries again; when it is to
// stop, for Grace and a Lease at the most: what it could not record by then becomes uncertain or is sent again, when the leases
// have lapsed. It returns [ErrRunning] if it runs already.
func (d *Dispatcher) Run(ctx context.Context) error {
	if !d.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer d.running.Store(false)
	_, err := newEngine(d, false).run(ctx)
	return err
}

// Report counts what a [Dispatcher.Flush] did, in deliveries.
type Report struct {
	// Sent were accepted.
	Sent int
	// Deferred were put back for later, and Recycled at once.
	Deferred, Recycled int
	// Failed were given up.
	Failed int
	// Uncertain may or may not have been accepted.
	Uncertain int
	// Held were set aside and Expired reached their deadline.
	Held, Expired int
	// Lost were no longer ours when their outcome was to be recorded: their lease had lapsed.
	Lost int
}

// Attempted is the number of deliveries that were settled or lost.
func (r Report) Attempted() int {
	return r.Sent + r.Deferred + r.Recycled + r.Failed + r.Uncertain + r.Held + r.Expired + r.Lost
}

// Flush delivers what is due and what becomes due meanwhile, and returns when nothing is. What is deferred stays for later.
// It may run beside Run. When ctx ends first it stops as Run does and returns the context's error. An error of the queue ends
// it, too; what was already sent is recorded before it returns.
func (d *Dispatcher) Flush(ctx context.Context) (Report, error) {
	return newEngine(d, true).run(ctx)
}
