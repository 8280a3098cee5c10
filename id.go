package outbox

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/outboxmail/outbox/queue"
)

// ID names one message: a UUIDv7 (RFC 9562 §5.7) in its canonical text form. It is made by the application when it enqueues,
// so IDs sort by the time at which they were made.
type ID = queue.ID

// newID makes an ID. The random source of the operating system can fail only where the process cannot go on.
func newID() (ID, error) {
	u, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make a message id: %w", err)
	}
	return ID(u.String()), nil
}

// ParseID checks that s is a UUID in any of its usual text forms and returns it in the canonical one.
func ParseID(s string) (ID, error) {
	u, err := uuid.Parse(s)
	if err != nil {
		return "", fmt.Errorf("%q is not a message id: %w", s, err)
	}
	return ID(u.String()), nil
}
