package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/mail"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

// Notice says who is told of a message that was given up, by a report in the form of RFC 3464. The transaction that records the
// failure also enqueues the report, so each failure has one. A report has the null return path, so it never leads to another. A
// message that has the null return path leads to none (RFC 3834 §2). A message that expired or was cancelled was not given up.
//
// A report is 7bit: any relay takes it. Where an address or a returned header is not ASCII, it has the types of RFC 6533, encoded. A
// report about a message that is encrypted at rest tells no subject and returns nothing, unless the queue encrypts reports as well
// (see store.Through). The zero value tells nobody.
type Notice struct {
	// From is the author of reports. It must be given when ToSender or To is.
	From outbox.Address
	// ToSender has reports sent to the return path of the failed message, as a mail server would. Defaults to false.
	ToSender bool
	// To are further readers, such as an operator. Defaults to none.
	To []outbox.Address
	// Route is the route of reports. Defaults to the route of the failed message.
	Route string
	// Full returns the whole message, up to 256 KiB, instead of its header. A message that is not 7bit goes as message/global.
	// Defaults to the header.
	Full bool
}

// maxReturned is the largest message that a report returns whole.
const maxReturned = 256 << 10

// on says whether anybody is told.
func (n *Notice) on() bool { return n.ToSender || len(n.To) > 0 }

func (n *Notice) check() error {
	if !n.on() {
		return nil
	}
	if n.From.Address == "" {
		return errors.New("from: no author given")
	}
	if !isASCII(n.From.Address) {
		return fmt.Errorf("from: %q is not ASCII, so a report could not be sent through every relay", n.From.Address)
	}
	for _, a := range append([]outbox.Address{n.From}, n.To...) {
		if _, err := mail.ParseAddress("<" + a.Address + ">"); err != nil {
			return fmt.Errorf("%q is not an address: %w", a.Address, err)
		}
	}
	if n.Route == "" {
		return nil
	}
	if err := checkName(n.Route); err != nil {
		return fmt.Errorf("route: %w", err)
	}
	return nil
}

// attach gives the first of the failures in a list the report about all of them.
func (n *Notice) attach(ctx context.Context, cfg *Config, log *slog.Logger, j *job, list []queue.Settlement, body []byte) {
	c := &j.claimed
	if !n.on() || c.Sender == "" {
		return
	}
	var failed []int
	for i := range list {
		if list[i].Outcome == queue.Failed {
			failed = append(failed, i)
		}
	}
	if len(failed) == 0 {
		return
	}
	to := n.To
	if n.ToSender {
		to = append([]outbox.Address{{Address: c.Sender}}, to...)
	}
	subject := c.Subject
	if j.sealed {
		q, ok := cfg.Queue.(noticeEncrypter)
		opened, err := cfg.Keys.OpenSubject(string(c.ID), subject)
		if subject = opened; !ok || !q.EncryptsNotices() || err != nil {
			subject, body = "(encrypted)", nil
		}
	}
	raw, err := n.write(c, list, failed, to, subject, body)
	if err != nil {
		log.ErrorContext(ctx, "cannot write the notice of a failure", "id", c.ID, "error", err)
		return
	}
	route := n.Route
	if route == "" {
		route = c.Route
	}
	notice := &outbox.Message{From: n.From, To: to, Raw: raw, EnvelopeFrom: "<>", Route: route}
	//nolint:contextcheck // it waits for nothing
	if _, err := outbox.Render(notice, c.ID, time.Now()); err != nil {
		// The failure could not be recorded with it.
		log.ErrorContext(ctx, "the notice of a failure cannot be sent", "id", c.ID, "error", err)
		return
	}
	list[failed[0]].Notice = &queue.Notice{From: n.From, To: to, Route: route, Raw: raw}
}
