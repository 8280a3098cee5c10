package dispatcher

import (
	"errors"
	"hash/fnv"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/smtpx"
)

// Attempt is a failed attempt that a [RetryPolicy] decides on.
type Attempt struct {
	// ID and Seq name the delivery.
	ID  outbox.ID
	Seq int
	// Number counts the attempts of the delivery from 1, this one included. Outages and the like are not counted.
	Number int
	// Priority is the priority of the message.
	Priority outbox.Priority
	// Class is the class of the failure.
	Class smtpx.Class
	// Age is how long the delivery has been due. DeferredFor is how long it has waited through an outage, throttling or a fault of
	// the configuration.
	Age, DeferredFor time.Duration
}

// RetryPolicy decides whether and when a delivery is attempted again. It is called for failures that may pass, of the classes
// transient, throttled, quota, config, unreachable, recycle and ambiguous. It must be a pure function of the attempt and safe for
// concurrent use.
type RetryPolicy interface {
	// Next returns the time until the next attempt. False gives the delivery up: it fails. After an ambiguous failure it stays
	// uncertain instead, until an operator resolves it.
	Next(a Attempt) (delay time.Duration, again bool)
}

// Backoff is the exponential [RetryPolicy]. The zero value waits 30 s after the first refusal, and twice as long after each further
// one. The longest wait is 4 h, for [outbox.High] 15 min. Refusals are repeated until Config.MaxAge, by default 5 days (RFC 5321
// §4.5.4.1). In an outage, throttling or a fault of the configuration each wait is as long as the fault has lasted so far, from
// Base to 15 min.
type Backoff struct {
	// Base is the first delay. Defaults to 30 s.
	Base time.Duration
	// Factor multiplies the delay after each refusal. At least 1. Defaults to 2.
	Factor float64
	// Max is the longest delay. For [outbox.High] it is never more than 15 min. Defaults to 4 h.
	Max time.Duration
	// Jitter is the largest part of a delay that is added or taken away, below 1. It follows from the delivery and the attempt, so
	// the same attempt always waits the same time. Negative means none. Defaults to 0.2.
	Jitter float64
	// Attempts is the number of refusals after which a delivery is given up. Defaults to no bound except Config.MaxAge.
	Attempts int
}

// The defaults of [Backoff].
const (
	defaultBase   = 30 * time.Second
	defaultFactor = 2
	defaultMax    = 4 * time.Hour
	defaultJitter = 0.2
	shortMax      = 15 * time.Minute
)

// check checks the fields.
func (b Backoff) check() error {
	switch {
	case b.Base < 0 || b.Max < 0 || b.Attempts < 0:
		return errors.New("base, max and attempts must not be negative")
	case b.Factor != 0 && b.Factor < 1:
		return errors.New("factor must be at least 1")
	case b.Jitter >= 1:
		return errors.New("jitter must be below 1")
	default:
		return nil
	}
}

// Next implements [RetryPolicy].
func (b Backoff) Next(a Attempt) (delay time.Duration, again bool) {
	base, longest := orDefault(b.Base, defaultBase), orDefault(b.Max, defaultMax)
	var d float64
	if counted(a.Class) {
		if b.Attempts > 0 && a.Number >= b.Attempts {
			return 0, false
		}
		if a.Priority == outbox.High {
			longest = min(longest, shortMax)
		}
		d = min(float64(base)*math.Pow(orDefault(b.Factor, defaultFactor), float64(max(a.Number, 1)-1)), float64(longest))
	} else {
		d = float64(min(max(a.DeferredFor, base), longest, shortMax))
	}
	jitter := orDefault(b.Jitter, defaultJitter)
	if jitter > 0 {
		d *= 1 + jitter*(2*fraction(a)-1)
	}
	return time.Duration(d), true
}

// orDefault returns v, or the default if v is zero.
func orDefault[T int | float64 | time.Duration](v, standard T) T {
	if v == 0 {
		return standard
	}
	return v
}

// counted says whether a failure of this class counts as an attempt of the delivery. The others would meet any message.
func counted(c smtpx.Class) bool {
	switch c {
	case smtpx.ClassThrottled, smtpx.ClassQuota, smtpx.ClassConfig, smtpx.ClassUnreachable, smtpx.ClassRecycle:
		return false
	default:
		return true
	}
}

// fraction returns a number from 0 to 1 that follows from the attempt. The numbers of many attempts are spread evenly.
func fraction(a Attempt) float64 {
	h := fnv.New64a()
	name := []string{string(a.ID), strconv.Itoa(a.Seq), strconv.Itoa(a.Number), strconv.FormatInt(int64(a.DeferredFor), 10)}
	_, _ = h.Write([]byte(strings.Join(name, "/")))
	sum := h.Sum64()
	sum ^= sum >> 33 // FNV leaves its high bits poorly mixed for short inputs
	sum *= 0xff51afd7ed558ccd
	sum ^= sum >> 33
	return float64(sum>>11) / (1 << 53)
}
