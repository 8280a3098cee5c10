package smtpx

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// limiter spaces messages evenly. Callers go in the order in which they came.
type limiter struct {
	interval time.Duration // 0 for no limit

	first   chan struct{} // held by the caller whose turn is next
	next    time.Time     // when that turn is; guarded by first
	typical atomic.Int64  // nanoseconds from a turn to the outcome of the message
	closed  chan struct{}
	once    sync.Once
}

// slack is how much unused time later turns may make up for. Without it late timers would lower the rate.
const slack = 100 * time.Millisecond

func newLimiter(perSecond float64) *limiter {
	l := &limiter{first: make(chan struct{}, 1), closed: make(chan struct{})}
	if perSecond > 0 {
		l.interval = max(1, time.Duration(float64(time.Second)/perSecond))
	}
	return l
}

// wait returns when the caller's turn has come. If the caller stops waiting, wait returns ctx's error or ErrClosed, and the turn
// goes to the next caller. A caller stops at once if the time between its turn and its deadline is too short to send a message.
// Otherwise, when demand exceeds the rate, all turns would go to callers that are about to give up.
func (l *limiter) wait(ctx context.Context) error {
	if l.interval == 0 {
		return nil
	}
	select {
	case l.first <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-l.closed:
		return ErrClosed
	}
	defer func() { <-l.first }()
	now := time.Now()
	if earliest := now.Add(-slack); l.next.Before(earliest) {
		l.next = earliest
	}
	if deadline, ok := ctx.Deadline(); ok && l.next.After(now) {
		left := deadline.Sub(now)
		if l.next.Sub(now) >= left-min(time.Duration(l.typical.Load()), left/2) {
			return context.DeadlineExceeded
		}
	}
	if d := l.next.Sub(now); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.closed:
			return ErrClosed
		}
	}
	l.next = l.next.Add(l.interval)
	return nil
}

// took notes how long a message took since its turn.
func (l *limiter) took(d time.Duration) {
	if l.interval > 0 {
		old := l.typical.Load()
		l.typical.Store(old + (int64(d)-old)/8) // a lost update does no harm
	}
}

// close ends all waits.
func (l *limiter) close() { l.once.Do(func() { close(l.closed) }) }
