package outbox

import (
	"context"
	"time"
)

// Rendered is a message as it would be stored and sent.
type Rendered struct {
	ID        ID
	MessageID string
	// Sender is the return path, empty for none. Recipients are those of the envelope, Bcc among them.
	Sender     string
	Recipients []string
	Subject    string
	// Body is the message in the form of RFC 5322.
	Body []byte
}

// Render checks and renders a message, with the defaults of [Config]. See [Outbox.Render].
func Render(msg *Message, id ID, at time.Time) (Rendered, error) { return standard.Render(msg, id, at) }

// Render checks and renders a message as Enqueue does at a certain time, and stores nothing: for a preview, or for a
// test that compares. The same message, id and time give the same bytes. An empty id makes a new one, and a zero time is
// now. Its errors are those of [Outbox.Enqueue] that are not the database's.
func (o *Outbox) Render(msg *Message, id ID, at time.Time) (Rendered, error) {
	var err error
	if id != "" {
		if id, err = ParseID(string(id)); err != nil {
			return Rendered{}, &InvalidError{Field: "ID", Err: err}
		}
	}
	if at.IsZero() {
		at = o.now()
	}
	d, err := o.draft(context.Background(), msg, id, at)
	if err != nil {
		return Rendered{}, err
	}
	return Rendered{
		ID: d.id, MessageID: d.messageID, Sender: d.sender, Recipients: d.recipients, Subject: d.subject, Body: d.body,
	}, nil
}
