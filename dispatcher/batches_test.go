package dispatcher_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/queue"
)

// tallied is a shelf that counts the calls of Settle and measures how long outcomes wait for one.
type tallied struct {
	*shelf

	mu      sync.Mutex
	known   map[queue.Ref]time.Time
	settles int
	longest time.Duration
}

// observe notes when an outcome becomes known.
func (q *tallied) observe(_ context.Context, e dispatcher.OutcomeEvent) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.known[e.Settlement.Ref] = time.Now()
}

func (q *tallied) Settle(ctx context.Context, owner string, list []queue.Settlement) ([]queue.Ref, error) {
	q.mu.Lock()
	q.settles++
	for _, s := range list {
		q.longest = max(q.longest, time.Since(q.known[s.Ref]))
	}
	q.mu.Unlock()
	return q.shelf.Settle(ctx, owner, list)
}

// Outcomes share a call while many other messages are being sent, and none waits for longer than 20 ms. The outcome of a
// message that is alone, or nearly so, does not wait.
func TestOutcomesGather(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                        string
		concurrency, messages, most int
		longest                     time.Duration
	}{
		{"alone", 10, 1, 1, 0},
		{"few", 3, 40, 40, 0},
		{"under load", 10, 400, 40, 20 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				counted := &tallied{shelf: q, known: make(map[queue.Ref]time.Time)}
				q.add(c.messages, nil)
				d, err := dispatcher.New(dispatcher.Config{
					Queue: counted, Concurrency: c.concurrency, Relays: relays(&line{takes: 7 * time.Millisecond}), Logger: slog.New(slog.DiscardHandler),
					Observer: dispatcher.Observer{Outcome: counted.observe},
				})
				if err != nil {
					t.Fatal(err)
				}
				report, err := d.Flush(t.Context())
				if err != nil || report.Sent != c.messages {
					t.Fatalf("sent %d of %d: %v", report.Sent, c.messages, err)
				}
				if counted.settles > c.most || counted.longest > c.longest {
					t.Errorf("%d outcomes took %d statements, not %d at the most, and waited up to %v, not %v", c.messages, counted.settles, c.most,
						counted.longest, c.longest)
				}
			})
		})
	}
}
