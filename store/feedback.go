package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

// Feedback is a report of a provider about a delivery, made after it had accepted the message.
type Feedback struct {
	Seq  int // the place of the recipient, from 1
	Kind queue.FeedbackKind
	// At is the time of the event. RecordedAt is the time at which it was recorded, by the clock of the database.
	At, RecordedAt time.Time
	Code           int
	Enhanced       string
	Detail         string
	EventID        string
}

// feedbackBatch is how many reports share a transaction.
const feedbackBatch = 100

// feedbackJSON is a [queue.Feedback] for one delivery as a statement reads it.
type feedbackJSON struct {
	ID       outbox.ID          `json:"id"`
	Seq      int                `json:"seq"`
	EventID  string             `json:"event_id"`
	Kind     queue.FeedbackKind `json:"kind"`
	At       *string            `json:"at"`
	Code     *int               `json:"code"`
	Enhanced *string            `json:"enhanced"`
	Detail   *string            `json:"detail"`

	suppress bool
}

// recordedKey names a row of outbox_feedback.
type recordedKey struct {
	key
	EventID string `db:"event_id"`
}

// RecordFeedback stores reports of providers beside the deliveries that they are about, and puts recipients on the suppression
// list where a report asks for that. The state of a delivery does not change. A report that is stored already is counted and
// left alone, so a webhook may be called twice. The result has the reports of unknown messages, and of Message-IDs that stand
// for several.
//
// Bad input is refused before anything is written. It works in batches: on an error the report says what was recorded so far,
// and the call may be repeated. An EventID of more than 400 bytes is stored as its beginning and its SHA-256. Characters that
// the encoding of the database lacks are stored as \uXXXX.
func (s *Store) RecordFeedback(ctx context.Context, list ...queue.Feedback) (queue.FeedbackReport, error) {
	var report queue.FeedbackReport
	for i, f := range list {
		if err := checkFeedback(f); err != nil {
			return report, fmt.Errorf("record feedback: report %d: %w", i+1, err)
		}
	}
	for len(list) > 0 {
		n := min(len(list), feedbackBatch)
		err := s.recordFeedback(ctx, list[:n], &report)
		if unstorable(err) {
			err = s.recordFeedback(ctx, asciiFeedback(list[:n]), &report)
		}
		if err != nil {
			return report, s.failed(ctx, err, "record feedback")
		}
		list = list[n:]
	}
	return report, nil
}

// asciiFeedback copies reports with their texts in ASCII; see [ascii].
func asciiFeedback(list []queue.Feedback) []queue.Feedback {
	list = slices.Clone(list)
	for i := range list {
		f := &list[i]
		f.EventID, f.ProviderID = ascii(bounded(f.EventID)), ascii(bounded(f.ProviderID))
		for _, text := range []*string{&f.Enhanced, &f.Detail, &f.MessageID, &f.Recipient} {
			*text = ascii(clean(*text))
		}
	}
	return list
}

// checkFeedback refuses a report that can never be recorded.
func checkFeedback(f queue.Feedback) error {
	switch {
	case !f.Kind.Valid():
		return fmt.Errorf("%q is not a kind of feedback: use delivered, delayed, bounced or complained", string(f.Kind))
	case f.ProviderID == "" && f.MessageID == "":
		return errors.New("it needs a ProviderID or a MessageID")
	case f.Suppress && (f.Kind == queue.FeedbackDelivered || f.Kind == queue.FeedbackDelayed):
		return fmt.Errorf("what is %s puts nobody on the suppression list", f.Kind)
	case f.At.Year() > 9999 || f.At.Year() < 1970 && !f.At.IsZero():
		return fmt.Errorf("%v is no time at which it happened", f.At)
	default:
		return nil
	}
}

// recordFeedback records a batch and adds to the report.
func (s *Store) recordFeedback(ctx context.Context, batch []queue.Feedback, report *queue.FeedbackReport) error {
	var (
		rows    []feedbackJSON
		unknown []queue.Feedback
	)
	seen := make(map[recordedKey]bool)
	double := 0
	for _, f := range batch {
		deliveries, err := s.reported(ctx, f)
		if err != nil {
			return err
		}
		if len(deliveries) == 0 {
			unknown = append(unknown, f)
		}
		row := rowOf(f)
		row.suppress = f.Suppress && f.Permanent() && len(deliveries) == 1
		for _, d := range deliveries {
			row.ID, row.Seq = d.ID, d.Seq
			k := recordedKey{d, row.EventID}
			if seen[k] {
				double++
				continue
			}
			seen[k] = true
			rows = append(rows, row)
		}
	}
	text, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	var recorded, suppressed int
	if len(rows) > 0 {
		err = s.atomically(ctx, func(c conn) error {
			fresh, err := collect[recordedKey](ctx, c, s.queries.get("record_feedback"), string(text))
			if err != nil {
				return err
			}
			recorded = len(fresh)
			suppressed, err = s.suppressReported(ctx, c, rows, fresh)
			return err
		})
		if err != nil {
			return err
		}
	}
	report.Recorded += recorded
	report.Known += len(rows) - recorded + double
	report.Suppressed += suppressed
	report.Unknown = append(report.Unknown, unknown...)
	return nil
}

// rowOf is a report without its delivery.
func rowOf(f queue.Feedback) feedbackJSON {
	row := feedbackJSON{
		EventID: bounded(f.EventID), Kind: f.Kind, Code: optional(f.Code), Enhanced: words(f.Enhanced), Detail: words(f.Detail),
	}
	if !f.At.IsZero() {
		row.At = optional(bindTime(f.At))
	}
	switch {
	case row.EventID != "":
	case row.At != nil:
		row.EventID = string(f.Kind) + " " + *row.At
	default:
		row.EventID = uuid.NewString()
	}
	return row
}

// reported finds the deliveries that a report is about. They belong to one message.
func (s *Store) reported(ctx context.Context, f queue.Feedback) ([]key, error) {
	recipient := canonicalAddress(clean(f.Recipient))
	if f.ProviderID != "" {
		id := bounded(f.ProviderID)
		found, err := collect[key](ctx, s.db, s.queries.get("deliveries_by_provider"), id, recipient)
		if plain := bounded(ascii(id)); err == nil && len(found) == 0 && plain != id { // as it was stored if the encoding lacks a character
			found, err = collect[key](ctx, s.db, s.queries.get("deliveries_by_provider"), plain, recipient)
		}
		if err != nil {
			return nil, err
		}
		for i, k := range found {
			if k.ID != found[0].ID { // of an older message
				return found[:i], nil
			}
		}
		if len(found) > 0 || f.MessageID == "" {
			return found, nil
		}
	}
	id, err := s.findMessageID(ctx, clean(f.MessageID))
	var ambiguous *AmbiguousError
	switch {
	case errors.Is(err, ErrNotFound), errors.As(err, &ambiguous):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return collect[key](ctx, s.db, s.queries.get("deliveries_of"), string(id), recipient)
}

// suppressReported suppresses the recipients of newly recorded reports that ask for it.
func (s *Store) suppressReported(ctx context.Context, c conn, rows []feedbackJSON, fresh []recordedKey) (int, error) {
	isFresh := make(map[recordedKey]bool, len(fresh))
	for _, k := range fresh {
		isFresh[k] = true
	}
	total := 0
	for _, r := range rows {
		if !r.suppress || !isFresh[recordedKey{key{r.ID, r.Seq}, r.EventID}] {
			continue
		}
		source, reason := "bounce", "the message bounced"
		if r.Kind == queue.FeedbackComplained {
			source, reason = "complaint", "the recipient complained"
		}
		if r.Detail != nil {
			reason = *r.Detail
		}
		n, err := affected(ctx, c, s.queries.get("suppress_delivery"), string(r.ID), r.Seq, reason, source)
		if err != nil {
			return 0, err
		}
		total += int(n)
	}
	return total, nil
}

// feedback reads the reports about a message.
func (s *Store) feedback(ctx context.Context, id outbox.ID) ([]Feedback, error) {
	type row struct {
		Seq              int
		EventID          string `db:"event_id"`
		Kind             queue.FeedbackKind
		At               timestamp
		Code             int
		Enhanced, Detail string
		RecordedAt       timestamp `db:"recorded_at"`
	}
	rows, err := collect[row](ctx, s.db, s.queries.get("feedback"), string(id))
	if err != nil {
		return nil, err
	}
	var list []Feedback
	for _, r := range rows {
		list = append(list, Feedback{
			Seq: r.Seq, Kind: r.Kind, At: r.At.Time, RecordedAt: r.RecordedAt.Time, Code: r.Code, Enhanced: r.Enhanced, Detail: r.Detail,
			EventID: r.EventID,
		})
	}
	return list, nil
}
