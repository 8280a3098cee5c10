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

// Config configures a [Dispatcher]. Queue and Relays are required.
type Config struct {
	// Queue keeps the deliveries. Required.
	Queue Queue
	// Relays lists the relays to send through, at least one. [Dispatcher.Update] changes them. Required.
	Relays []Relay
	// Name is the owner of the leases. It must be unique among the dispatchers of a queue. Defaults to the host, the process
	// id and a random part.
	Name string
	// Concurrency is the number of messages that each relay is sent at once. Use two or three times the connections of a
	// smtpx.Client: the next message then begins before the answer to the one before. Defaults to 10.
	Concurrency int
	// MaxBytes bounds the memory for large bodies, those of more than 64 KiB, in bytes. Each relay has an equal share of it. A body
	// larger than the share is sent while its relay has no other large body in memory, and one larger than MaxBytes while no relay
	// has. A relay that waited 30 s for memory that others hold gets one body beyond the bound. A body is fetched when its turn
	// comes, and is copied for a moment if it is decrypted or signed. The process may need twice as much unless GOGC or GOMEMLIMIT
	// say otherwise. Raise MaxBytes if you send many large messages through slow relays. Defaults to 96 MiB, three messages of 25 MB
	// at a time through one relay.
	MaxBytes int64
	// Poll is the time between two looks at the queue when nothing else wakes the dispatcher. Wake, Watch, and deliveries that
	// become due wake it, too. Defaults to 1 s.
	Poll time.Duration
	// Watch calls wake whenever the queue may have changed. It works until ctx ends, or returns an error. After an error, Run
	// polls and later calls Watch again. See the functions Watch of store/sqlite and store/postgres. Defaults to none.
	Watch func(ctx context.Context, wake func()) error
	// Lease is the time after which a claim lapses unless it is renewed. The dispatcher renews three times in a Lease. Others
	// take over from a dispatcher that died or lost the database after this time. At least 1 s. Defaults to 60 s.
	Lease time.Duration
	// Grace is the time for which sends may go on after Run's context has ended. Then they are cut off. A message whose final
	// dot has left is never cut off: Run waits for the relay's answer or the client's time limit. Defaults to 30 s.
	Grace time.Duration
	// SendTimeout is the time after which a send that has not returned is reported in Health and logged once. It should be longer than
	// the time limits of the Sender together. The send itself goes on. Defaults to 1 h.
	SendTimeout time.Duration
	// MaxAge is the age, counted from when it was due, at which a refused message is given up. It is given up at its next
	// refusal. Defaults to 5 days (RFC 5321 §4.5.4.1).
	MaxAge time.Duration
	// MaxOutage is the longest time that a message waits through outages, throttling or a used-up allowance before it is given
	// up. It is counted from the first of them and does not add to MaxAge. A fault of the configuration has no such limit: the
	// message waits until the fault is mended or the message expires. Defaults to 5 days.
	MaxOutage time.Duration
	// Retry decides when a failed attempt is repeated. Defaults to Backoff{}.
	Retry RetryPolicy
	// Suppress lists the routes whose recipients are put on the suppression list if a server says that the address itself is gone.
	// Only enhanced codes such as 5.1.1 and 5.2.1 (RFC 3463) say so; a full mailbox does not. "*" means every route. Defaults to none.
	Suppress []string
	// Notice configures reports about messages that were given up. Defaults to none.
	Notice Notice
	// Retention is how long finished deliveries are kept. Run removes the rest every minute. It requires a Queue that is a
	// [Cleaner]. Defaults to keeping everything.
	Retention queue.Retention
	// Keys decrypts bodies that are encrypted at rest. A message that needs a missing key is held, and the reason names the
	// key. Add the key and release the message. Defaults to none.
	Keys *keyring.Ring
	// Middleware is called around every send. The first one is outermost. Defaults to none.
	Middleware []Middleware
	// Observer is called for events. Defaults to none.
	Observer Observer
	// Logger gets an event for every outcome, without addresses or subjects. Defaults to slog.Default().
	Logger *slog.Logger
}

// The defaults of [Config], and limits of memory.
const (
	defaultConcurrency = 10
	defaultMaxBytes    = 96 << 20
	defaultPoll        = time.Second
	defaultLease       = time.Minute
	defaultGrace       = 30 * time.Second
	defaultSendTimeout = time.Hour
	defaultMaxAge      = 5 * 24 * time.Hour
	defaultMaxOutage   = 5 * 24 * time.Hour

	minLease = time.Second
	// inlineBytes is the size of the largest body that comes with its claim and waits in memory.
	inlineBytes = 64 << 10
	// fetchBytes bounds the summed size of the large bodies that are being fetched at once. A larger one is fetched alone. The
	// database driver makes copies of a body meanwhile, which MaxBytes does not count.
	fetchBytes = 32 << 20
)

// complete checks the configuration and sets defaults.
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
		{"send timeout", &c.SendTimeout, defaultSendTimeout},
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
		return errors.New("middleware: an entry is nil")
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

// everyRoute means all routes in [Config.Suppress].
const everyRoute = "*"

// suppresses says whether recipients of a route whose address is gone are put on the suppression list.
func (c *Config) suppresses(route string) bool {
	return slices.Contains(c.Suppress, route) || slices.Contains(c.Suppress, everyRoute)
}

// processName returns a name that no other process has.
func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s:%d:%s", host, os.Getpid(), rand.Text()[:8])
}
