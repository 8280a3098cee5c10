package dispatcher_test

import (
	"bytes"
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// Large bodies are in memory one after the other, within MaxBytes.
func TestMaxBytes(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		a := &line{takes: time.Second}
		running(t, dispatcher.Config{Queue: q, Relays: relays(a), MaxBytes: 1 << 20})
		q.add(20, func(i int, c *queue.Claimed) {
			c.Body = make([]byte, 400<<10)
			if i == 0 {
				c.Body = make([]byte, 3<<20) // larger than all that may be there: it goes alone
			}
			c.Size = int64(len(c.Body))
		})
		time.Sleep(time.Minute)
		if a.mostAtOnce() != 2 || a.accepted() != 20 {
			t.Errorf("%d were sent, %d large messages at once", a.accepted(), a.mostAtOnce())
		}
	})
}

// With the default of MaxBytes, three messages of 25 MB are in memory at once, and hundreds of small ones.
func TestMaxBytesDefault(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		size int64
		want int
	}{{25 << 20, 3}, {100 << 10, 200}} {
		t.Run(strconv.FormatInt(c.size, 10), func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				a := &line{takes: time.Second}
				running(t, dispatcher.Config{Queue: q, Relays: relays(a), Concurrency: 200})
				q.add(400, func(_ int, m *queue.Claimed) { m.Size = c.size })
				time.Sleep(10 * time.Minute)
				if a.mostAtOnce() != c.want || a.accepted() != 400 {
					t.Errorf("%d were sent, %d at once, want %d", a.accepted(), a.mostAtOnce(), c.want)
				}
			})
		})
	}
}

// slowShelf takes a second to return a body, and measures how many bytes are being fetched at once.
type slowShelf struct {
	*shelf
	bytes, most atomic.Int64
}

func (q *slowShelf) Body(ctx context.Context, id outbox.ID) ([]byte, error) {
	row := q.get(id)
	size := row.claimed.Size
	now := q.bytes.Add(size)
	for most := q.most.Load(); now > most && !q.most.CompareAndSwap(most, now); {
		most = q.most.Load()
	}
	time.Sleep(time.Second)
	q.bytes.Add(-size)
	return q.shelf.Body(ctx, id)
}

// A driver copies bodies while it returns them. So 32 MiB of large bodies are fetched at once, or a single larger one.
func TestLargeBodiesAreFetchedByTurns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ size, want int64 }{{10 << 20, 30 << 20}, {40 << 20, 40 << 20}, {100 << 10, 2000 << 10}} {
		t.Run(strconv.FormatInt(c.size, 10), func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				a := &line{}
				slow := &slowShelf{shelf: q}
				running(t, dispatcher.Config{Queue: slow, Relays: relays(a), Concurrency: 20, MaxBytes: 1 << 30})
				q.add(100, func(_ int, m *queue.Claimed) { m.Size = c.size })
				time.Sleep(10 * time.Minute)
				if a.accepted() != 100 || slow.most.Load() != c.want {
					t.Errorf("%d were sent; up to %d bytes came at once, want %d", a.accepted(), slow.most.Load(), c.want)
				}
			})
		})
	}
}

// Fields are added to a copy of the message that hooks and middleware see, however much capacity is behind it.
func TestStampsLeaveTheClaimAlone(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		text := []byte("Subject: x\r\n\r\nhello\r\n")
		var sent, seen []byte
		s := &sender{}
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			sent = bytes.Clone(body)
			return s.accept(ctx, env, body)
		}
		running(t, dispatcher.Config{
			Queue: q, Relays: []dispatcher.Relay{{Name: "main", Sender: s}},
			Observer: dispatcher.Observer{SendStart: func(_ context.Context, e dispatcher.SendEvent) { seen = bytes.Clone(e.Message.Body) }},
		})
		q.add(1, func(_ int, m *queue.Claimed) { m.Body = append(make([]byte, 0, 64<<10), text...) })
		time.Sleep(time.Minute)
		synctest.Wait()
		if !bytes.Equal(seen, text) || !bytes.HasSuffix(sent, text) || len(sent) == len(text) {
			t.Errorf("seen %q, sent %q", seen, sent)
		}
	})
}
