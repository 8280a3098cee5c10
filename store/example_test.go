package store_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store"
)

// A webhook records the reports of its provider. If it cannot record one it answers with an error, and the provider sends it
// again. A report that arrives twice is recorded once.
func ExampleStore_RecordFeedback() {
	type report struct {
		Event     string    `json:"event"`
		Type      string    `json:"type"`
		MessageID string    `json:"message_id"`
		Recipient string    `json:"recipient"`
		At        time.Time `json:"at"`
		Status    string    `json:"status"`
		Reason    string    `json:"reason"`
	}
	record := func(ctx context.Context, s *store.Store, r *http.Request) error {
		var in report // once its signature was checked
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			return err
		}
		kind := queue.FeedbackKind(in.Type)
		if !kind.Valid() {
			return nil // opened, clicked …
		}
		result, err := s.RecordFeedback(ctx, queue.Feedback{
			Kind: kind, MessageID: in.MessageID, Recipient: in.Recipient, At: in.At, Enhanced: in.Status, Detail: in.Reason,
			EventID: in.Event, Suppress: kind == queue.FeedbackBounced || kind == queue.FeedbackComplained,
		})
		if len(result.Unknown) > 0 {
			fmt.Println("not one of ours:", in.MessageID)
		}
		return err
	}
	_ = record
}
