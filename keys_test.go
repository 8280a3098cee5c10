package outbox_test

import (
	"fmt"
	"testing"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/schema"
)

func TestDuplicateKey(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		var first, same, later, narrow, other outbox.Receipt
		d.within(t, func(tx outbox.Tx) {
			first = enqueue(t, tx, message("k"))
			same = enqueue(t, tx, message("k"))
		})
		d.within(t, func(tx outbox.Tx) {
			later = enqueue(t, outbox.InTx(tx), message("k"))
			narrow = enqueue(t, outbox.InTx(onlyExec{tx}), message("k"))
			other = enqueue(t, tx, message("l"))
		})
		if first.Duplicate || first.ID == "" || first.MessageID == "" {
			t.Errorf("the first is %+v", first)
		}
		want := outbox.Receipt{ID: first.ID, MessageID: first.MessageID, Duplicate: true, State: outbox.StateQueued}
		if same != want || later != want {
			t.Errorf("duplicates are %+v and %+v, want %+v", same, later, want)
		}
		if narrow != (outbox.Receipt{Duplicate: true}) {
			t.Errorf("the duplicate of a transaction that cannot be queried is %+v", narrow)
		}
		if other.Duplicate {
			t.Errorf("another key is %+v", other)
		}
		if n := d.count(t, `SELECT count(*) FROM outbox_deliveries`); n != 2 {
			t.Errorf("%d deliveries, want 2", n)
		}
	})
}

// TestKeyInTwoTransactions shows on PostgreSQL that the second transaction waits for the first and then agrees with it.
func TestKeyInTwoTransactions(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		if d.dialect == schema.SQLite {
			t.Skip("SQLite has one writer at a time")
		}
		for _, commits := range []bool{true, false} {
			key := fmt.Sprint("k-", commits)
			one, two := d.begin(t), d.begin(t)
			first := enqueue(t, one.Tx, message(key))
			type result struct {
				outbox.Receipt
				err error
			}
			done := make(chan result, 1)
			go func() {
				r, err := outbox.Enqueue(t.Context(), two.Tx, message(key))
				done <- result{r, err}
			}()
			waitForLock(t, d)
			end := one.rollback
			if commits {
				end = one.commit
			}
			if err := end(); err != nil {
				t.Fatal(err)
			}
			second := <-done
			if second.err != nil {
				t.Fatal(second.err)
			}
			if second.Duplicate != commits || (second.ID == first.ID) != commits {
				t.Errorf("the first commits: %t; the second is %+v, the first was %+v", commits, second.Receipt, first)
			}
			if err := two.commit(); err != nil {
				t.Fatal(err)
			}
			if n := d.count(t, `SELECT count(*) FROM outbox_messages WHERE idempotency_key = $1`, key); n != 1 {
				t.Errorf("%d messages have the key", n)
			}
		}
	})
}

// waitForLock waits until a transaction of the database waits for another.
func waitForLock(t *testing.T, d *database) {
	t.Helper()
	for t.Context().Err() == nil {
		if d.count(t, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) > 0 {
			return
		}
	}
	t.Fatal("no transaction waits for a lock")
}

// TestKeysAreLockedInOneOrder shows that a transaction that waits for one key does not hold one that comes after it.
func TestKeysAreLockedInOneOrder(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		if d.dialect == schema.SQLite {
			t.Skip("SQLite has one writer at a time")
		}
		one, two, three := d.begin(t), d.begin(t), d.begin(t)
		enqueue(t, one.Tx, message("a"))
		done := make(chan error, 1)
		go func() {
			_, err := outbox.EnqueueMany(t.Context(), two.Tx, []*outbox.Message{message("b"), message("a")})
			done <- err
		}()
		waitForLock(t, d)
		if _, err := three.ExecContext(t.Context(), `SET LOCAL lock_timeout = '5s'`); err != nil {
			t.Fatal(err)
		}
		if r := enqueue(t, three.Tx, message("b")); r.Duplicate {
			t.Errorf("the third transaction gets %+v", r)
		}
		for _, end := range []func() error{one.rollback, three.rollback} {
			if err := end(); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := two.commit(); err != nil {
			t.Fatal(err)
		}
	})
}

// The receipt of a duplicate says where the earlier message stands, and of several recipients names the one that is furthest from its end.
func TestDuplicateTellsTheState(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		two := message("k")
		two.To = append(two.To, outbox.Address{Address: "second@example.org"})
		var first outbox.Receipt
		d.within(t, func(tx outbox.Tx) { first = enqueue(t, tx, two) })
		if first.State != "" {
			t.Errorf("a new message is %q", first.State)
		}
		const finished = `finished_at = '2026-01-01T00:00:00.000Z'`
		for _, step := range []struct {
			set  string
			want outbox.State
		}{
			{"state = 'held' WHERE seq = 1", outbox.StateQueued},
			{"state = 'sent', " + finished + " WHERE seq = 2", outbox.StateHeld},
			{"state = 'failed', " + finished + " WHERE seq = 1", outbox.StateFailed},
			{"state = 'cancelled' WHERE seq = 2", outbox.StateFailed},
			{"state = 'sent'", outbox.StateSent},
		} {
			d.exec(t, "UPDATE outbox_deliveries SET "+step.set)
			d.within(t, func(tx outbox.Tx) {
				if r := enqueue(t, tx, message("k")); !r.Duplicate || r.ID != first.ID || r.State != step.want {
					t.Errorf("after SET %s the receipt is %+v, want the state %s", step.set, r, step.want)
				}
			})
		}
	})
}

// A message gives its key back when nothing of it is left but cancelled deliveries, and not before.
func TestCancelledMessageFreesItsKey(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		two := message("k")
		two.To = append(two.To, outbox.Address{Address: "second@example.org"})
		var first, second outbox.Receipt
		d.within(t, func(tx outbox.Tx) { first = enqueue(t, tx, two) })
		d.exec(t, "UPDATE outbox_deliveries SET state = 'sent', finished_at = '2026-01-01T00:00:00.000Z' WHERE seq = 1")
		cancel := func(id outbox.ID, want int) {
			t.Helper()
			d.within(t, func(tx outbox.Tx) {
				if r, err := outbox.Cancel(t.Context(), tx, id); err != nil || r.Cancelled != want {
					t.Fatalf("%+v, %v; want %d cancelled", r, err, want)
				}
			})
		}
		cancel(first.ID, 1)
		d.within(t, func(tx outbox.Tx) {
			if r := enqueue(t, tx, message("k")); !r.Duplicate {
				t.Errorf("a message of which a recipient has a copy gave its key back: %+v", r)
			}
		})
		d.exec(t, "UPDATE outbox_messages SET idempotency_key = 'other'")
		d.within(t, func(tx outbox.Tx) { second = enqueue(t, tx, message("k")) })
		cancel(second.ID, 1)
		d.within(t, func(tx outbox.Tx) {
			if r := enqueue(t, tx, message("k")); r.Duplicate || r.ID == second.ID {
				t.Errorf("the key of a cancelled message is still taken: %+v", r)
			}
		})
		cancel(second.ID, 0)
		d.within(t, func(tx outbox.Tx) {
			if r := enqueue(t, tx, message("k")); !r.Duplicate {
				t.Errorf("cancelling the earlier message again freed the key of the later one: %+v", r)
			}
		})
	})
}
