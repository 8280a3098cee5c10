package store

import (
	"context"
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
//   - It takes lapsed leases back: sending → queued, or uncertain behind the fence. An attempt that lapsed before the fence is
//     not counted, because no relay has refused the message.
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
			requeued, uncertain, err := s.reapLapsed(ctx)
			if err != nil {
				return total, s.failed(ctx, err, "reap lapsed leases")
			}
			total.Requeued += requeued
			total.Uncertain += uncertain
		}
		if found.Doubtful {
			resent, err := change[key](ctx, s, "resend_uncertain", reapBatch)
			if err != nil {
				return total, s.failed(ctx, err, "resend what is uncertain")
			}
			total.Resent += len(resent)
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

// reapLapsed takes back one batch of lapsed leases.
func (s *Store) reapLapsed(ctx context.Context) (requeued, uncertain int, err error) {
	if s.dialect == schema.Postgres {
		type counts struct{ Requeued, Uncertain int }
		list, err := change[counts](ctx, s, "reap_lapsed", reapBatch, DoubtDelay.Seconds())
		if err != nil {
			return 0, 0, err
		}
		return list[0].Requeued, list[0].Uncertain, nil
	}
	err = s.atomically(ctx, func(c conn) error {
		type row struct {
			ID     outbox.ID
			Seq    int
			Token  string
			Fenced int
			Owner  string
			Relay  string
			Class  string
		}
		requeued, uncertain = 0, 0
		lapsed, err := collect[row](ctx, c, s.queries.get("lapsed"), reapBatch)
		if err != nil || len(lapsed) == 0 {
			return err
		}
		list := make([]settlementJSON, len(lapsed))
		for i, l := range lapsed {
			j := settlementJSON{
				refJSON: refJSON{ID: l.ID, Seq: l.Seq, Token: l.Token}, Verb: verbReap, State: outbox.StateQueued,
				Delay: s.interval(time.Duration(0)), Evidence: true, Class: optional("unreachable"),
				Reply: optional("the lease of dispatcher " + l.Owner + " lapsed"), Owner: l.Owner,
			}
			if l.Fenced == 0 && l.Class == ambiguous { // an attempt that sent nothing does not resolve an older doubt
				j.Class, j.Relay, j.Reply = optional(ambiguous), optional(l.Relay), optional("still in doubt; "+*j.Reply)
			}
			if l.Fenced == 1 {
				j.State, j.Class, j.Stage = outbox.StateUncertain, optional(ambiguous), optional("dot")
				j.Relay, j.Doubt, j.Delay = optional(l.Relay), optional(l.Token), s.interval(DoubtDelay)
				uncertain++
			} else {
				j.Uncounted = true // no relay has refused anything
				requeued++
			}
			list[i] = j
		}
		done := make(map[refJSON]bool, len(list))
		if err := s.settleSQLite(ctx, c, list, done); err != nil {
			return err
		}
		for ref, taken := range done {
			if !taken {
				return fmt.Errorf("the lapsed lease of %s/%d was not taken back", ref.ID, ref.Seq)
			}
		}
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	return requeued, uncertain, nil
}
