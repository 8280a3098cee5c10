package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
)

const (
	// cleanBatch is how many deliveries a cleaning changes in one transaction.
	cleanBatch = 100
	// cleanRest is the pause after each batch, about as long as a batch takes on SQLite. SQLite has one writer at a time, and others
	// write in the pauses.
	cleanRest = 25 * time.Millisecond
)

// Clean removes what the retention no longer keeps. It purges finished deliveries with their attempts and feedback, and every
// message whose last delivery went. It scrubs the body and metadata of messages whose deliveries all finished longer ago than
// keep.Body, in whatever order they finished or were purged.
//
// It works in batches of 100 with pauses of 10 ms. On an error the report says what was removed so far. If there is nothing to
// remove it writes nothing. Any number of processes may call it at once.
func (s *Store) Clean(ctx context.Context, keep queue.Retention) (queue.CleanReport, error) {
	var report queue.CleanReport
	if keep.Sent < 0 || keep.Unsent < 0 || keep.Body < 0 {
		return report, errors.New("clean: a retention must not be negative")
	}
	for _, state := range outbox.States() {
		if !state.Terminal() {
			continue
		}
		age := keep.Unsent
		if state == outbox.StateSent {
			age = keep.Sent
		}
		if age > 0 {
			purged, scrubbed, err := s.purgeOld(ctx, state, age, keep.Body)
			report.Purged += purged
			report.Scrubbed += scrubbed
			if err != nil {
				return report, s.failed(ctx, err, "purge what is %s", state)
			}
		}
		if keep.Body > 0 && (age == 0 || keep.Body < age) {
			n, err := s.scrubOld(ctx, state, keep.Body)
			report.Scrubbed += n
			if err != nil {
				return report, s.failed(ctx, err, "scrub what is %s", state)
			}
		}
	}
	return report, nil
}

// purgeOld removes the deliveries of a state that were finished longer ago than age. A message that keeps other deliveries
// loses its body if they all finished longer ago than body, unless body is 0. [Store.scrubOld] does not come back to a message
// that it passed over because of a delivery that is purged here.
func (s *Store) purgeOld(ctx context.Context, state outbox.State, age, body time.Duration) (purged, scrubbed int, err error) {
	for {
		found, err := collect[bool](ctx, s.db, s.queries.get("is_old"), string(state), s.ago(age))
		if err != nil || !found[0] {
			return purged, scrubbed, err
		}
		var (
			gone   []key
			bodies []outbox.ID
		)
		err = s.atomically(ctx, func(c conn) (err error) {
			gone, err = collect[key](ctx, c, s.queries.get("purge_old"), string(state), s.ago(age), cleanBatch)
			if err != nil || len(gone) == 0 {
				return err
			}
			if err = s.forget(ctx, c, gone); err != nil || body == 0 {
				return err
			}
			bodies, err = s.scrubLeft(ctx, c, gone, body)
			return err
		})
		if err != nil || len(gone) == 0 { // another process has the rest
			return purged, scrubbed, err
		}
		purged += len(gone)
		scrubbed += len(bodies)
		if err := rest(ctx); err != nil {
			return purged, scrubbed, err
		}
	}
}

// scrubLeft scrubs the messages of purged deliveries if their remaining deliveries all finished longer ago than age.
// [Store.forget] has locked the messages, so that nothing is requeued in between.
func (s *Store) scrubLeft(ctx context.Context, c conn, gone []key, age time.Duration) ([]outbox.ID, error) {
	ids := make([]outbox.ID, len(gone))
	for i, k := range gone {
		ids[i] = k.ID
	}
	slices.Sort(ids)
	list, err := json.Marshal(slices.Compact(ids))
	if err != nil {
		return nil, err
	}
	return collect[outbox.ID](ctx, c, s.queries.get("scrub"), string(list), s.ago(age))
}

// rest waits for cleanRest, or until ctx ends.
func rest(ctx context.Context) error {
	timer := time.NewTimer(cleanRest)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// ago returns an age as a statement of the dialect takes it.
func (s *Store) ago(age time.Duration) any {
	if s.dialect == schema.Postgres {
		return age.Seconds()
	}
	return modifier(-age)
}

// beginning is a time before any delivery finished.
const beginning = "1970-01-01T00:00:00.000Z"

// scrubOld goes over the deliveries of a state in the order in which they finished, from where it stopped the last time. It
// scrubs their messages. It passes over a message if another of its deliveries is unfinished or finished lately. That delivery
// brings it back to the message later.
func (s *Store) scrubOld(ctx context.Context, state outbox.State, age time.Duration) (int, error) {
	chore := "scrub " + string(state)
	from := beginning
	last, err := collect[string](ctx, s.db, s.queries.get("progress"), chore)
	if err != nil {
		return 0, err
	}
	if len(last) > 0 {
		from = last[0]
	}
	type row struct {
		key
		FinishedAt string `db:"finished_at"`
	}
	at := row{FinishedAt: from, key: key{ID: "00000000-0000-0000-0000-000000000000"}}
	for total := 0; ; {
		page, err := collect[row](ctx, s.db, s.queries.get("finished"),
			string(state), s.ago(age), at.FinishedAt, string(at.ID), at.Seq, cleanBatch)
		if err != nil || len(page) == 0 {
			return total, err
		}
		at = page[len(page)-1]
		ids := make([]outbox.ID, len(page))
		for i, r := range page {
			ids[i] = r.ID
		}
		slices.Sort(ids)
		n, err := s.scrub(ctx, chore, slices.Compact(ids), age, at.FinishedAt)
		total += n
		if err != nil || len(page) < cleanBatch {
			return total, err
		}
		if n == 0 {
			continue // nothing was written
		}
		if err := rest(ctx); err != nil {
			return total, err
		}
	}
}

// scrub removes the bodies of messages and records how far the chore has come. It locks the deliveries first, so that none is
// requeued in between.
func (s *Store) scrub(ctx context.Context, chore string, ids []outbox.ID, age time.Duration, until string) (int, error) {
	list, err := json.Marshal(ids)
	if err != nil {
		return 0, err
	}
	ids, err = collect[outbox.ID](ctx, s.db, s.queries.get("has_body"), string(list))
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	if list, err = json.Marshal(ids); err != nil {
		return 0, err
	}
	var scrubbed []outbox.ID
	err = s.atomically(ctx, func(c conn) (err error) {
		if s.dialect == schema.Postgres {
			if _, err := c.ExecContext(ctx, s.queries.get("lock_deliveries"), string(list)); err != nil {
				return err
			}
		}
		if scrubbed, err = collect[outbox.ID](ctx, c, s.queries.get("scrub"), string(list), s.ago(age)); err != nil {
			return err
		}
		if _, err = c.ExecContext(ctx, s.queries.get("set_progress"), chore, until); err != nil {
			return fmt.Errorf("note the progress: %w", err)
		}
		return nil
	})
	return len(scrubbed), err
}
