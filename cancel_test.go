package outbox_test

import (
	"errors"
	"maps"
	"testing"

	"github.com/outboxmail/outbox"
)

func TestCancel(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		m := message("")
		for _, name := range []string{"bob", "cy", "dan", "eve", "fay", "gus", "hal", "ian"} {
			m.Bcc = append(m.Bcc, outbox.Address{Address: name + "@example.org"})
		}
		var id, other outbox.ID
		d.within(t, func(tx outbox.Tx) {
			id = enqueue(t, tx, m).ID
			other = enqueue(t, tx, message("")).ID
		})
		token := "01980a5c-7d1f-7cc3-9b3e-3f1d8a6f2b11"
		for seq, set := range map[int]string{
			2: `state = 'held'`,
			3: `state = 'sending', lease_token = '` + token + `'`,
			4: `state = 'uncertain'`,
			5: `state = 'sent', finished_at = (SELECT now FROM outbox_clock)`,
			6: `state = 'failed', finished_at = (SELECT now FROM outbox_clock)`,
			7: `state = 'expired', finished_at = (SELECT now FROM outbox_clock)`,
			8: `state = 'suppressed', finished_at = (SELECT now FROM outbox_clock)`,
		} {
			d.exec(t, `UPDATE outbox_deliveries SET `+set+` WHERE message_id = $1 AND seq = $2`, string(id), seq)
		}
		states := func(cancelled int) map[outbox.State]int {
			return map[outbox.State]int{
				outbox.StateCancelled: cancelled, outbox.StateSending: 1, outbox.StateUncertain: 1, outbox.StateSent: 1,
				outbox.StateFailed: 1, outbox.StateExpired: 1, outbox.StateSuppressed: 1,
			}
		}
		cancel := func(tx outbox.Tx, id outbox.ID, want outbox.CancelResult) {
			t.Helper()
			got, err := outbox.Cancel(t.Context(), tx, id)
			if err != nil {
				t.Fatal(err)
			}
			if got.Found != want.Found || got.Cancelled != want.Cancelled || got.TooLate != want.TooLate || !maps.Equal(got.States, want.States) {
				t.Errorf("Cancel returns %+v, want %+v", got, want)
			}
		}
		cancelled := func() int {
			return d.count(t, `SELECT count(*) FROM outbox_deliveries WHERE state = 'cancelled' AND finished_at IS NOT NULL`)
		}

		// What rolls back was not cancelled.
		tx := d.begin(t)
		cancel(tx.Tx, id, outbox.CancelResult{Found: true, Cancelled: 3, TooLate: 3, States: states(3)})
		if err := tx.rollback(); err != nil {
			t.Fatal(err)
		}
		if n := cancelled(); n != 0 {
			t.Errorf("%d deliveries are cancelled after a rollback", n)
		}
		d.within(t, func(tx outbox.Tx) {
			cancel(tx, id, outbox.CancelResult{Found: true, Cancelled: 3, TooLate: 3, States: states(3)})
			cancel(tx, id, outbox.CancelResult{Found: true, TooLate: 3, States: states(3)})
			cancel(outbox.InTx(onlyExec{tx}), id, outbox.CancelResult{})
			cancel(outbox.InTx(onlyExec{tx}), other, outbox.CancelResult{Found: true, Cancelled: 1})
			cancel(tx, "01980a5c-7d1f-7cc3-9b3e-000000000000", outbox.CancelResult{})
			if _, err := outbox.Cancel(t.Context(), tx, "no id"); !errors.As(err, new(*outbox.InvalidError)) {
				t.Errorf("the error about no id is %v", err)
			}
		})
		if n := cancelled(); n != 4 {
			t.Errorf("%d deliveries are cancelled, want 4", n)
		}
	})
}

// TestReplace is the case that Cancel is for: a new message takes the place of one that was not sent yet.
func TestReplace(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		var old outbox.ID
		d.within(t, func(tx outbox.Tx) { old = enqueue(t, tx, message("")).ID })
		d.within(t, func(tx outbox.Tx) {
			r, err := outbox.Cancel(t.Context(), tx, old)
			if err != nil || r.Cancelled != 1 || r.TooLate != 0 {
				t.Fatalf("%+v, %v", r, err)
			}
			enqueue(t, tx, message(""))
		})
		if n := d.count(t, `SELECT count(*) FROM outbox_deliveries WHERE state = 'queued'`); n != 1 {
			t.Errorf("%d deliveries are queued, want 1", n)
		}
	})
}
