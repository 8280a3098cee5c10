package dispatcher

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/outboxmail/outbox/keyring"
	"github.com/outboxmail/outbox/queue"
)

// Config says what a [Dispatcher] works with. Queue and Relays must be given; the rest has defaults.
type Config struct {
	// Queue holds the deliveries.
	Queue Queue
	// Relays are the ways out, at least one. [Dispatcher.Update] changes them.
	Relays []Relay
	// Name is the owner of the leases, unique among the dispatchers of a queue. Defaults to host, process id and a random
	// part.
	Name string
	// Concurrency is how many messages each relay is sent at once. Defaults to 10. A smtpx.Client with fewer connections
	// than this makes the rest wait; two or three times its connections are of use, because the next message then begins behind
	// the final dot of the one before.
	Concurrency int
	// MaxBytes bounds the summed size of the large bodies, of more than 64 KiB, that are in memory at once; a larger one goes
	// alone. What waits its turn is fetched when that has come. A body is there once, for a moment once more where it is opened
	// or signed. Beside what is alive Go lets as much pile up before it collects, unless GOGC or GOMEMLIMIT say otherwise: the
	// process may need twice as much. Defaults to 96 MiB, which is three messages of 25 MB at a time; raise it where many are as
	// large and relays take long over them.
	MaxBytes int64
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
	// MaxAge is how long after it was due a message that the relay refuses is given up, at its next refusal. Defaults to 5 days
	// (RFC 5321 §4.5.4.1).
	MaxAge time.Duration
	// MaxOutage is how long a message waits through an outage, throttling or a used-up allowance before it is given up. It is
	// counted from the first of them and does not add to MaxAge. Defaults to 5 days. A fault of the configuration has no
	// such end: the message is kept until the fault is mended or the message expires.
	MaxOutage time.Duration
	// Retry says when a failed attempt is repeated. Defaults to Backoff{}.
	Retry RetryPolicy
	// Suppress are the routes whose recipients are put on the suppression list when a relay says that they will never be
	// accepted; "*" is every route. Defaults to none.
	Suppress []string
	// Notice says who is told of a message that was given up. Defaults to nobody.
	Notice Notice
	// Retention says how long what is finished is kept; Run removes the rest every minute. The queue must be a [Cleaner] then.
	// Defaults to keeping everything.
	Retention queue.Retention
	// Keys open the bodies that are encrypted at rest. One that they do not open is held, with a reason that names the key: add
	// the key and release it. Defaults to none.
	Keys *keyring.Ring
	// Middleware is called around every send, the first of them outermost. Defaults to none.
	Middleware []Middleware
	// Observer is told what happens. Defaults to nobody.
	Observer Observer
	// Logger gets an event for every outcome, without addresses or subjects. Defaults to slog.Default().
	Logger *slog.Logger
}

// The defaults of [Config], and what bounds memory.
const (
	defaultConcurrency = 10
	defaultMaxBytes    = 96 << 20
	defaultPoll        = time.Second
	defaultLease       = time.Minute
	defaultGrace       = 30 * time.Second
	defaultMaxAge      = 5 * 24 * time.Hour
	defaultMaxOutage   = 5 * 24 * time.Hour

	minLease = time.Second
	// inlineBytes is the largest body that waits in memory for its turn.
	inlineBytes = 64 << 10
	// fetchBytes bounds the summed size of the large bodies that are being fetched at once; a larger one is fetched alone. While it
	// hands a body over, a driver has copies of it that nobody else accounts for.
	fetchBytes = 32 << 20
)

// complete checks the configuration and fills in what was left out.
func (c *Config) complete() (err error) {
	if c.Queue == nil {
		return errors.New("no queue given")
	}
	if c.Concurrency < 0 {
		return fmt.Errorf("concurrency: %d is negative", c.Concurrency)
	}
	c.Concurrency = orDefault(c.Concurrency, defaultConcurrency)
	if c.Relays, err = checkRelays(c.Relays, c.Concurrency); err != nil {
		return err
	}
	if c.MaxBytes < 0 {
		return fmt.Errorf("max bytes: %d is negative", c.MaxBytes)
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = defaultMaxBytes
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
		{"max outage", &c.MaxOutage, defaultMaxOutage},
	} {
		if *d.value < 0 {
			return fmt.Errorf("%s: %v is negative", d.name, *d.value)
		}
		*d.value = orDefault(*d.value, d.standard)
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
	c.Suppress = slices.Clone(c.Suppress)
	for _, route := range c.Suppress {
		if err := checkName(route); err != nil && route != everyRoute {
			return fmt.Errorf("suppress: %w", err)
		}
	}
	if err := c.Notice.check(); err != nil {
		return fmt.Errorf("notice: %w", err)
	}
	c.Middleware = slices.Clone(c.Middleware)
	if slices.ContainsFunc(c.Middleware, func(m Middleware) bool { return m == nil }) {
		return errors.New("middleware: one of them is nil")
	}
	if c.Retention.Sent < 0 || c.Retention.Unsent < 0 || c.Retention.Body < 0 {
		return errors.New("retention: must not be negative")
	}
	if _, ok := c.Queue.(Cleaner); !ok && c.Retention != (queue.Retention{}) {
		return fmt.Errorf("retention: a queue of type %T cannot clean", c.Queue)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return nil
}

// everyRoute stands for all of them in [Config.Suppress].
const everyRoute = "*"

// suppresses says whether a route's refused recipients are put on the suppression list.
func (c *Config) suppresses(route string) bool {
	return slices.Contains(c.Suppress, route) || slices.Contains(c.Suppress, everyRoute)
}

// processName tells the dispatchers of a fleet apart.
func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s:%d:%s", host, os.Getpid(), rand.Text()[:8])
}
