package smtpx

import (
	"context"
	"sync"
	"time"
)

// limiter spaces messages evenly. Callers go in the order in which they came.
type limiter struct {
	interval time.Duration // 0 for no limit

	first  chan struct{} // held by the caller whose turn is next
	next   time.Time     // when that turn is; guarded by first
	closed chan struct{}
	once   sync.Once
}

// slack is how much unused time may be caught up on, so that a timer's lateness does not lower the rate.
const slack = 100 * time.Millisecond

func newLimiter(perSecond float64) *limiter {
	l := &limiter{first: make(chan struct{}, 1), closed: make(chan struct{})}
	if perSecond > 0 {
		l.interval = max(1, time.Duration(float64(time.Second)/perSecond))
	}
	return l
}

// wait returns when the caller's turn has come. It returns ctx's error, or ErrClosed, to a caller that stops waiting, whose
// turn goes to the next one.
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

// close ends all waits.
func (l *limiter) close() { l.once.Do(func() { close(l.closed) }) }
