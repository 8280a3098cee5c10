package smtpx

import (
	"context"
	"sync"
	"time"
)

// limiter spaces messages evenly. Waiting callers go in the order in which they came.
type limiter struct {
	interval time.Duration // 0 for no limit

	mu   sync.Mutex
	next time.Time // when the next message may go
}

// slack is how much unused time may be caught up on, so that a timer's lateness does not lower the rate.
const slack = 100 * time.Millisecond

func newLimiter(perSecond float64) *limiter {
	l := &limiter{}
	if perSecond > 0 {
		l.interval = max(1, time.Duration(float64(time.Second)/perSecond))
	}
	return l
}

// wait returns when the caller's turn has come, or ctx's error. A turn that was given up is lost.
func (l *limiter) wait(ctx context.Context) error {
	if l.interval == 0 {
		return nil
	}
	l.mu.Lock()
	now := time.Now()
	if earliest := now.Add(-slack); l.next.Before(earliest) {
		l.next = earliest
	}
	turn := l.next
	l.next = turn.Add(l.interval)
	l.mu.Unlock()
	d := turn.Sub(now)
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
