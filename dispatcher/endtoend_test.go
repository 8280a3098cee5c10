package dispatcher_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// openRelay returns a client of a test server.
func openRelay(t *testing.T, server *smtptest.Server) *smtpx.Client {
	t.Helper()
	client, err := smtpx.Open(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// The central promise: exactly the messages of committed transactions arrive, once each, while two dispatchers deliver and
// sixteen goroutines commit and roll back.
func TestExactlyWhatCommittedArrives(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		const (
			workers      = 16
			transactions = 1000
			commits      = transactions / 2
		)
		q.exec("CREATE TABLE orders (number integer PRIMARY KEY)")
		server := smtptest.New(t, smtptest.Config{User: "shop", Password: "secret"})
		for range 2 {
			start(t, newDispatcher(t, dispatcher.Config{Queue: q, Poll: 20 * time.Millisecond}, openRelay(t, server)))
		}

		decisions := make([]bool, transactions)
		for i := range commits {
			decisions[i] = true
		}
		rand.Shuffle(transactions, func(i, j int) { decisions[i], decisions[j] = decisions[j], decisions[i] })
		var (
			next      atomic.Int64
			wg        sync.WaitGroup
			mu        sync.Mutex
			committed = make(map[string]outbox.ID) // by Message-ID
		)
		for range workers {
			wg.Go(func() {
				for {
					n := int(next.Add(1)) - 1
					if n >= transactions {
						return
					}
					receipt, err := q.order(t.Context(), n, decisions[n])
					if err != nil {
						t.Errorf("order %d: %v", n, err)
						return
					}
					if decisions[n] {
						mu.Lock()
						committed[receipt.MessageID] = receipt.ID
						mu.Unlock()
					}
				}
			})
		}
		wg.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := server.WaitMessages(ctx, commits); err != nil {
			t.Fatal(err)
		}
		// Other deliveries that the dispatchers hold are delivered or handed back. A delivery that they should not have would
		// be due.
		report := flush(t, newDispatcher(t, dispatcher.Config{Queue: q}, openRelay(t, server)))
		if report.Failed+report.Deferred+report.Uncertain > 0 {
			t.Errorf("a last flush says %+v", report)
		}

		if len(committed) != commits {
			t.Fatalf("%d transactions committed, want %d", len(committed), commits)
		}
		copies := make(map[string]int)
		for _, m := range server.Messages() {
			copies[m.MessageID]++
		}
		for id, n := range copies {
			if _, ok := committed[id]; !ok {
				t.Errorf("message %s arrived, but its transaction did not commit", id)
			}
			if n != 1 {
				t.Errorf("message %s arrived %d times", id, n)
			}
		}
		for messageID, id := range committed {
			if copies[messageID] == 0 {
				t.Errorf("message %s is lost: %+v", messageID, q.get(id).Deliveries)
			}
		}
		var orders int
		if err := q.db.QueryRowContext(t.Context(), "SELECT count(*) FROM orders").Scan(&orders); err != nil || orders != commits {
			t.Errorf("%d orders (%v), want %d", orders, err, commits)
		}
		var messages int
		if err := q.db.QueryRowContext(t.Context(), "SELECT count(*) FROM outbox_messages").Scan(&messages); err != nil || messages != commits {
			t.Errorf("%d messages stored (%v), want %d", messages, err, commits)
		}
	})
}

// order is a business transaction: a row of the application and the mail that belongs to it.
func (q *testQueue) order(ctx context.Context, number int, commit bool) (outbox.Receipt, error) {
	tx, err := q.db.BeginTx(ctx, nil)
	if err != nil {
		return outbox.Receipt{}, err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, "INSERT INTO orders (number) VALUES ($1)", number); err != nil {
		return outbox.Receipt{}, err
	}
	receipt, err := outbox.Enqueue(ctx, tx, &outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: fmt.Sprintf("customer%d@example.org", number)}},
		Subject: fmt.Sprintf("Order %d", number), Text: "Thank you.", Key: fmt.Sprintf("order-%d", number),
	})
	if err != nil {
		return outbox.Receipt{}, err
	}
	if !commit {
		return receipt, tx.Rollback()
	}
	return receipt, tx.Commit()
}

// A wrong password keeps the mail and the relay's own words. It does not count as an attempt of the messages.
func TestAWrongPasswordKeepsTheMail(t *testing.T) {
	t.Parallel()
	q := newQueue(t, openSQLite(t))
	id := q.enqueue(1, nil)[0]
	server := smtptest.New(t, smtptest.Config{User: "shop", Password: "secret"})
	client, err := smtpx.Open(server.URLFor("shop", "guessed"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	flush(t, newDispatcher(t, dispatcher.Config{Queue: q}, client))
	d := q.get(id).Deliveries[0]
	if d.State != outbox.StateQueued || d.Class != string(smtpx.ClassConfig) || d.Code != 535 || d.Attempts != 0 {
		t.Errorf("%s, class %s, code %d, %d attempts, %q", d.State, d.Class, d.Code, d.Attempts, d.Reply)
	}
}

// An outage keeps the mail, too.
func TestARelayThatIsDownKeepsTheMail(t *testing.T) {
	t.Parallel()
	q := newQueue(t, openSQLite(t))
	id := q.enqueue(1, nil)[0]
	server := smtptest.New(t, smtptest.Config{})
	client := openRelay(t, server)
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	flush(t, newDispatcher(t, dispatcher.Config{Queue: q}, client))
	d := q.get(id).Deliveries[0]
	if d.State != outbox.StateQueued || d.Class != string(smtpx.ClassUnreachable) || d.Attempts != 0 || d.DeferredSince.IsZero() {
		t.Errorf("%s, class %s, %d attempts, deferred since %v, %q", d.State, d.Class, d.Attempts, d.DeferredSince, d.Reply)
	}
}
