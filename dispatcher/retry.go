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

// Attempt is what a [RetryPolicy] decides on.
type Attempt struct {
	// ID and Seq name the delivery.
	ID  outbox.ID
	Seq int
	// Number counts the attempts that were held against the delivery, this one included, from 1.
	Number int
	// Priority is that of the message.
	Priority outbox.Priority
	// Class is what the failure means.
	Class smtpx.Class
	// Age is how long the delivery has been due, and DeferredFor how long it has been waiting through an outage,
	// throttling or a fault of the configuration.
	Age, DeferredFor time.Duration
}

// RetryPolicy says whether and when a delivery is attempted again. It is called for failures that may pass: transient,
// throttled, quota, config, unreachable, and ambiguous ones that are to be sent again. It must be a pure function of the
// attempt, because what it says is stored and asked for again after a crash. It is called concurrently.
type RetryPolicy interface {
	// Next returns the time until the next attempt, or false to give the delivery up: it fails, or where the class is
	// ambiguous stays uncertain until an operator resolves it.
	Next(a Attempt) (delay time.Duration, again bool)
}

// Backoff is the exponential [RetryPolicy]. Its zero value waits 30 s after the first refusal and twice as long after each
// further one, up to 4 h and for [outbox.High] up to 15 min, give or take a fifth. Refusals are repeated until
// Config.MaxAge ends them, which by default is after 5 days (RFC 5321 §4.5.4.1). An outage, throttling or a fault of the
// configuration is waited out in steps as long as it has lasted so far, from Base to 15 min.
type Backoff struct {
	// Base is the first delay. Defaults to 30 s.
	Base time.Duration
	// Factor multiplies it from attempt to attempt, at least 1. Defaults to 2.
	Factor float64
	// Max bounds the delay. Defaults to 4 h. For [outbox.High] it is never more than 15 min.
	Max time.Duration
	// Jitter is the largest share of a delay by which it is lengthened or shortened, below 1. It depends on the delivery
	// and the attempt alone, so the same attempt always waits the same time. Defaults to 0.2; negative for none.
	Jitter float64
	// Attempts is the number of refusals after which a delivery is given up. Defaults to no bound but Config.MaxAge.
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

// check refuses what cannot be meant.
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

func orDefault[T int | float64 | time.Duration](v, standard T) T {
	if v == 0 {
		return standard
	}
	return v
}

// counted says whether a failure of this class is held against the delivery. The others are nothing that another message
// would not meet as well.
func counted(c smtpx.Class) bool {
	switch c {
	case smtpx.ClassThrottled, smtpx.ClassQuota, smtpx.ClassConfig, smtpx.ClassUnreachable, smtpx.ClassRecycle:
		return false
	default:
		return true
	}
}

// fraction spreads attempts evenly over [0, 1), each always to the same place.
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
