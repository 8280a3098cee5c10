package command

import (
	"strconv"
	"strings"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/iostreams"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
	"github.com/outboxmail/outbox/keyring"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store"
)

// The structs below are the JSON contract of docs/cli-json.md. Fields without a value are left out.

// deliveryJSON is one recipient of a message.
type deliveryJSON struct {
	ID            outbox.ID       `json:"id"`
	Seq           int             `json:"seq"`
	Recipient     string          `json:"recipient"`
	State         outbox.State    `json:"state"`
	Shown         string          `json:"shown"`
	Route         string          `json:"route"`
	Priority      outbox.Priority `json:"priority"`
	Sender        string          `json:"sender"`
	Subject       string          `json:"subject"`
	MessageID     string          `json:"message_id"`
	Key           string          `json:"key,omitempty"`
	Size          int64           `json:"size"`
	CreatedAt     time.Time       `json:"created_at"`
	DueAt         time.Time       `json:"due_at"`
	ExpiresAt     time.Time       `json:"expires_at,omitzero"`
	FinishedAt    time.Time       `json:"finished_at,omitzero"`
	DeferredSince time.Time       `json:"deferred_since,omitzero"`
	Attempts      int             `json:"attempts"`
	LeaseOwner    string          `json:"lease_owner,omitempty"`
	LeaseUntil    time.Time       `json:"lease_until,omitzero"`
	Relay         string          `json:"relay,omitempty"`
	Class         string          `json:"class,omitempty"`
	Code          int             `json:"code,omitempty"`
	Enhanced      string          `json:"enhanced,omitempty"`
	Reply         string          `json:"reply,omitempty"`
	ProviderID    string          `json:"provider_id,omitempty"`
	EncryptionKey string          `json:"encryption_key,omitempty"`
	Sealed        []string        `json:"sealed,omitempty"`
}

func viewDelivery(d store.Delivery) deliveryJSON {
	return deliveryJSON{
		ID: d.ID, Seq: d.Seq, Recipient: d.Recipient, State: d.State, Shown: d.Shown(), Route: d.Route, Priority: d.Priority,
		Sender: d.Sender, Subject: readable(d.KeyID, d.Subject), MessageID: d.MessageID, Key: d.IdempotencyKey, Size: d.Size,
		CreatedAt: d.CreatedAt, DueAt: d.DueAt, ExpiresAt: d.ExpiresAt, FinishedAt: d.FinishedAt, DeferredSince: d.DeferredSince,
		Attempts: d.Attempts, LeaseOwner: d.LeaseOwner, LeaseUntil: d.LeaseUntil,
		Relay: d.Relay, Class: d.Class, Code: d.Code, Enhanced: d.Enhanced, Reply: d.Reply, ProviderID: d.ProviderID,
		EncryptionKey: d.KeyID, Sealed: sealed(d.KeyID, d.Subject, nil),
	}
}

// messageJSON is a message with its deliveries, attempts and feedback.
type messageJSON struct {
	ID         outbox.ID       `json:"id"`
	MessageID  string          `json:"message_id"`
	Key        string          `json:"key,omitempty"`
	Route      string          `json:"route"`
	Priority   outbox.Priority `json:"priority"`
	Sender     string          `json:"sender"`
	Recipients []string        `json:"recipients"`
	Subject    string          `json:"subject"`
	Size       int64           `json:"size"`
	Scrubbed   bool            `json:"scrubbed"`
	// EncryptionKey names the key of the body. Sealed lists the encrypted fields that could not be decrypted.
	EncryptionKey string   `json:"encryption_key,omitempty"`
	Sealed        []string `json:"sealed,omitempty"`

	CreatedAt   time.Time              `json:"created_at"`
	NotBefore   time.Time              `json:"not_before,omitzero"`
	ExpiresAt   time.Time              `json:"expires_at,omitzero"`
	OnUncertain outbox.UncertainPolicy `json:"on_uncertain"`
	Tags        []string               `json:"tags,omitempty"`
	Metadata    map[string]string      `json:"metadata,omitempty"`
	TraceParent string                 `json:"trace_parent,omitempty"`
	Deliveries  []deliveryJSON         `json:"deliveries"`
	Attempts    []attemptJSON          `json:"attempts"`
	Changes     []changeJSON           `json:"changes,omitempty"`
	Feedback    []feedbackJSON         `json:"feedback,omitempty"`
}

// feedbackJSON is a report of a provider about a message that it had accepted.
type feedbackJSON struct {
	Seq        int                `json:"seq"`
	Kind       queue.FeedbackKind `json:"kind"`
	At         time.Time          `json:"at"`
	Code       int                `json:"code,omitempty"`
	Enhanced   string             `json:"enhanced,omitempty"`
	Detail     string             `json:"detail,omitempty"`
	EventID    string             `json:"event_id"`
	RecordedAt time.Time          `json:"recorded_at"`
}

// changeJSON is what an operator did to a delivery.
type changeJSON struct {
	Seq    int       `json:"seq"`
	At     time.Time `json:"at"`
	Actor  string    `json:"actor"`
	Verb   string    `json:"verb"`
	Reason string    `json:"reason,omitempty"`
}

// attemptJSON is an attempt. Attempts that simply succeeded are not recorded.
type attemptJSON struct {
	Seq        int           `json:"seq"`
	Attempt    int           `json:"attempt"`
	Verb       queue.Outcome `json:"verb"`
	StartedAt  time.Time     `json:"started_at"`
	DurationMS int64         `json:"duration_ms"`
	Owner      string        `json:"owner,omitempty"`
	Relay      string        `json:"relay,omitempty"`
	Stage      string        `json:"stage,omitempty"`
	Class      string        `json:"class,omitempty"`
	Code       int           `json:"code,omitempty"`
	Enhanced   string        `json:"enhanced,omitempty"`
	Reply      string        `json:"reply,omitempty"`
}

func viewMessage(m *store.Message) messageJSON {
	v := messageJSON{
		ID: m.ID, MessageID: m.MessageID, Key: m.IdempotencyKey, Route: m.Route, Priority: m.Priority, Sender: m.Sender,
		Recipients: m.Recipients, Subject: readable(m.KeyID, m.Subject), Size: m.Size, Scrubbed: m.Scrubbed, CreatedAt: m.CreatedAt,
		NotBefore: m.NotBefore, ExpiresAt: m.ExpiresAt, OnUncertain: m.OnUncertain, Tags: m.Tags, Metadata: viewMetadata(m.Metadata),
		EncryptionKey: m.KeyID, Sealed: sealed(m.KeyID, m.Subject, m.Metadata),
		TraceParent: m.TraceParent, Deliveries: []deliveryJSON{}, Attempts: []attemptJSON{},
	}
	for _, d := range m.Deliveries {
		v.Deliveries = append(v.Deliveries, viewDelivery(d))
	}
	for _, a := range m.Attempts {
		v.Attempts = append(v.Attempts, attemptJSON{
			Seq: a.Seq, Attempt: a.Attempt, Verb: a.Verb, StartedAt: a.StartedAt, DurationMS: a.Duration.Milliseconds(), Owner: a.Owner,
			Relay: a.Relay, Stage: a.Stage, Class: a.Class, Code: a.Code, Enhanced: a.Enhanced, Reply: a.Reply,
		})
	}
	for _, c := range m.Changes {
		v.Changes = append(v.Changes, changeJSON(c))
	}
	for _, f := range m.Feedback {
		v.Feedback = append(v.Feedback, feedbackJSON{
			Seq: f.Seq, Kind: f.Kind, At: f.At, Code: f.Code, Enhanced: f.Enhanced, Detail: f.Detail, EventID: f.EventID, RecordedAt: f.RecordedAt,
		})
	}
	return v
}

// viewMetadata leaves out metadata that is encrypted.
func viewMetadata(m map[string]string) map[string]string {
	if keyring.IsSealedMetadata(m) {
		return nil
	}
	return m
}

// stateCell shows the state of a delivery as a word. The colour only highlights the word.
func stateCell(d store.Delivery) output.Cell {
	return output.Cell{Text: d.Shown(), Color: stateColor(d.State)}
}

func stateColor(s outbox.State) iostreams.Color {
	switch s {
	case outbox.StateSent:
		return iostreams.Green
	case outbox.StateFailed, outbox.StateExpired:
		return iostreams.Red
	case outbox.StateUncertain, outbox.StateHeld, outbox.StateSuppressed:
		return iostreams.Yellow
	case outbox.StateSending:
		return iostreams.Blue
	case outbox.StateCancelled:
		return iostreams.Dim
	default:
		return ""
	}
}

// shortID is the number of digits at the end of an id that are shown to people. They are random; the beginning is a clock.
const shortID = 8

// short returns the end of an id, which stands for the message wherever an id is taken.
func short(id outbox.ID) string { return string(id[max(0, len(id)-shortID):]) }

// idCell names a delivery: as ID/SEQ for programs, by its last digits for people. The first recipient needs no number there.
func idCell(id outbox.ID, seq int) output.Cell {
	cell := output.Cell{Text: store.DeliveryID{ID: id, Seq: seq}.String(), Short: short(id)}
	if seq > 1 {
		cell.Short += "/" + strconv.Itoa(seq)
	}
	return cell
}

// replyCell shows the last reply of the relay, or else the class of the last outcome. People see the codes before the words.
func replyCell(d store.Delivery) output.Cell {
	words := d.Reply
	if words == "" {
		words = d.Class
	}
	cell := output.Text(words)
	if words == "" {
		return cell
	}
	cell.Short = words
	if d.Enhanced != "" && !strings.HasPrefix(cell.Short, d.Enhanced) {
		cell.Short = d.Enhanced + " " + cell.Short
	}
	if code := strconv.Itoa(d.Code); d.Code != 0 && !strings.HasPrefix(cell.Short, code) {
		cell.Short = code + " " + cell.Short
	}
	return cell
}

// whenCell says to people what the time means: when the delivery ended, when it is tried next, or for how long it has been due.
func whenCell(d store.Delivery, now time.Time) output.Cell {
	cell := output.Time(when(d), now)
	if !d.FinishedAt.IsZero() || cell.Text == "" {
		return cell
	}
	late := now.Sub(d.DueAt)
	switch d.Shown() {
	case "queued", "deferred", "scheduled":
		switch {
		case late >= time.Second:
			cell.Short = "due " + output.Duration(late)
		case late > -time.Second:
			cell.Short = "due now"
		case d.Attempts > 0:
			cell.Short = "next in " + output.Duration(-late)
		}
	}
	return cell
}

// when returns the time when a delivery finished, or else when it is due.
func when(d store.Delivery) time.Time {
	if !d.FinishedAt.IsZero() {
		return d.FinishedAt
	}
	return d.DueAt
}
