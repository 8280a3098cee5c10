package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
)

// reapBatch bounds each transaction of [Store.Reap].
const reapBatch = 500

// DoubtDelay is how long a delivery stays uncertain after its lease lapsed behind the fence, by the clock of the database.
// After it the policy of the message may resend. The holder of the lease may know the outcome and have lost the database:
// [Store.Settle] takes the outcome while the delivery is uncertain.
const DoubtDelay = 10 * time.Second

// Reap does three things that are due:
//
//   - It takes lapsed claims back: sending → queued, or uncertain behind the fence. What lapsed before the fence was not sent, if its
//     claim promised fences (see [queue.ClaimRequest]); the attempt is then not counted, because no relay has refused the message.
//     Deliveries whose row another transaction has locked come later.
//     Lapses in a row, without an outcome in between, are counted. From the second on the delivery is claimed apart from others, one such
//     message at a time for each owner, and delayed by 10 s for each lapse. After the fifth it is held. If a process dies that has such a
//     message, the lapses of its other claims do not count.
//   - It queues uncertain deliveries again if their message says [outbox.Resend] and their delay is over. The delay is that of
//     their settlement, or [DoubtDelay].
//   - It expires deliveries past their deadline.
//
// It first looks without a lock, so an idle caller writes nothing. Any number of dispatchers may call it at once.
func (s *Store) Reap(ctx context.Context) (queue.ReapReport, error) {
	var total queue.ReapReport
	for {
		found, err := s.reapable(ctx)
		if err != nil {
			return total, s.failed(ctx, err, "reap")
		}
		before := total
		if found.Lapsed {
			got, err := s.reapLapsed(ctx)
			if err != nil {
				return total, s.failed(ctx, err, "reap lapsed leases")
			}
			total.Requeued += got.Requeued
			total.Uncertain += got.Uncertain
			total.Held += got.Held
		}
		if found.Doubtful {
			states, err := change[outbox.State](ctx, s, "resend_uncertain", reapBatch)
			if err != nil {
				return total, s.failed(ctx, err, "resend what is uncertain")
			}
			for _, state := range states {
				if state == outbox.StateHeld {
					total.Held++
				} else {
					total.Resent++
				}
			}
		}
		if found.Overdue {
			expired, err := change[key](ctx, s, "expire", reapBatch)
			if err != nil {
				return total, s.failed(ctx, err, "expire")
			}
			total.Expired += len(expired)
		}
		if total == before { // nothing there, or another dispatcher has it locked
			return total, nil
		}
	}
}

const (
	// suspectAfter and heldAfter are numbers of lapses in a row: from the one on a delivery is claimed alone and delayed by lapseDelay for
	// each lapse, after the other it is held. The statements have the same numbers.
	suspectAfter, heldAfter = 2, 5
	lapseDelay              = 10 * time.Second
)

type reapable struct{ Lapsed, Doubtful, Overdue bool }

func (s *Store) reapable(ctx context.Context) (reapable, error) {
	found, err := collect[reapable](ctx, s.db, s.queries.get("reapable"))
	if err != nil {
		return reapable{}, err
	}
	return found[0], nil
}

// ambiguous is the class of a doubt: the relay may or may not have accepted the message.
const ambiguous = "ambiguous"

// lapsedRow is a delivery whose claim lapsed or is gone.
type lapsedRow struct {
	ID          outbox.ID
	Seq         int
	Token       string
	Orphaned    bool // somebody removed the claim
	Fenced      bool // the claim promised a fence for each delivery
	Owner       string
	ClaimRelay  string `db:"claim_relay"`
	Relay       string
	Class       string
	OnUncertain outbox.UncertainPolicy `db:"on_uncertain"`
	Lapses      int
	Blamed      int // 1 if this lapse counts
}

// fencesOf holds the relay of the last fence of each ref.
type fencesOf map[refJSON]string

// reapLapsed takes back one batch of lapsed claims. First it marks them: from then on nobody renews or fences them. Then it reads
// their fences and takes back the deliveries. Last it removes the claims of which nothing is left.
func (s *Store) reapLapsed(ctx context.Context) (got queue.ReapReport, err error) {
	if s.dialect == schema.Postgres {
		if _, err := change[string](ctx, s, "mark_lapsed", reapBatch); err != nil {
			return got, err
		}
		if _, err := change[string](ctx, s, "excuse"); err != nil {
			return got, err
		}
		type counts struct{ Requeued, Uncertain, Held int }
		list, err := change[counts](ctx, s, "reap_lapsed", reapBatch, DoubtDelay.Seconds())
		if err != nil {
			return got, err
		}
		_, err = change[string](ctx, s, "end_lapsed")
		return queue.ReapReport{Requeued: list[0].Requeued, Uncertain: list[0].Uncertain, Held: list[0].Held}, err
	}
	err = s.atomically(ctx, func(c conn) (err error) {
		got, err = s.reapSQLite(ctx, c)
		return err
	})
	if err != nil {
		return queue.ReapReport{}, err
	}
	return got, nil
}

func (s *Store) reapSQLite(ctx context.Context, c conn) (got queue.ReapReport, err error) {
	for _, name := range []string{"mark_lapsed", "excuse"} {
		if _, err := c.ExecContext(ctx, s.queries.get(name)); err != nil {
			return got, err
		}
	}
	lapsed, err := collect[lapsedRow](ctx, c, s.queries.get("lapsed"), reapBatch)
	if err != nil {
		return got, err
	}
	if len(lapsed) > 0 {
		fences, err := s.lapsedFences(ctx, c)
		if err != nil {
			return got, err
		}
		list := make([]settlementJSON, len(lapsed))
		for i := range lapsed {
			list[i] = s.takenBack(&lapsed[i], fences)
			switch list[i].State {
			case outbox.StateUncertain:
				got.Uncertain++
			case outbox.StateHeld:
				got.Held++
			default:
				got.Requeued++
			}
		}
		answers := make(map[refJSON]answer, len(list))
		if err := s.settleSQLite(ctx, c, list, answers); err != nil {
			return got, err
		}
		if len(answers) != len(list) {
			return got, fmt.Errorf("%d of %d lapsed deliveries were not taken back", len(list)-len(answers), len(list))
		}
	}
	_, err = c.ExecContext(ctx, s.queries.get("end_lapsed"))
	return got, err
}

// lapsedFences reads the fences of the lapsed claims.
func (s *Store) lapsedFences(ctx context.Context, c conn) (fencesOf, error) {
	type row struct {
		Token, Relay string
		Refs         []byte
	}
	rows, err := collect[row](ctx, c, s.queries.get("lapsed_fences"))
	if err != nil {
		return nil, err
	}
	fences := make(fencesOf)
	for _, r := range rows {
		var refs []json.RawMessage
		_ = json.Unmarshal(r.Refs, &refs) // a row that is typed by hand may name nothing
		for _, text := range refs {
			var ref place
			if json.Unmarshal(text, &ref) != nil {
				continue
			}
			of := refJSON{ID: ref.ID, Seq: ref.Seq, Token: r.Token}
			if _, later := fences[of]; !later {
				fences[of] = r.Relay
			}
		}
	}
	return fences, nil
}

// takenBack returns what becomes of a lapsed delivery. The statement reap_lapsed of PostgreSQL says the same, and why.
func (s *Store) takenBack(l *lapsedRow, fences fencesOf) settlementJSON {
	words := "the lease of dispatcher " + l.Owner + " lapsed"
	if l.Orphaned {
		words = "the claim was removed"
	}
	j := settlementJSON{
		refJSON: refJSON{ID: l.ID, Seq: l.Seq, Token: l.Token}, Verb: verbReap, State: outbox.StateQueued,
		Evidence: true, Class: optional("unreachable"), Owner: l.Owner, Lapses: l.Blamed,
	}
	var delay time.Duration
	if n := l.Lapses + l.Blamed; n >= suspectAfter {
		words += fmt.Sprintf(", for the %d. time in a row", n)
		delay = time.Duration(n) * lapseDelay
	}
	relay, fenced := fences[j.refJSON]
	if !fenced {
		relay = l.ClaimRelay
	}
	switch {
	case fenced, l.Orphaned, !l.Fenced && l.OnUncertain == outbox.Resend:
		j.State, j.Class, j.Stage = outbox.StateUncertain, optional(ambiguous), optional("dot")
		j.Relay, j.Doubt, delay = optional(relay), optional(l.Token), max(delay, DoubtDelay)
	default:
		if l.Lapses+l.Blamed >= heldAfter {
			j.State = outbox.StateHeld
		}
		j.Uncounted = true // no relay has refused anything
		if l.Class == ambiguous {
			j.Class, j.Relay, words = optional(ambiguous), optional(l.Relay), "still in doubt; "+words
		}
	}
	j.Reply, j.Delay = optional(words), s.interval(delay)
	return j
}
