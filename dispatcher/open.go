package dispatcher

import (
	"context"
	"errors"
	"fmt"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// Signer adds signatures to a message before it is sent, such as DKIM's (package dkim has one). It is called concurrently, for every
// attempt anew, and must give the same bytes for the same message. It must not keep or change the body. An error keeps the
// message: it is what an operator must mend.
type Signer interface {
	Sign(body []byte) ([]byte, error)
}

// The reasons why a message is not ready to be sent, which an operator must mend.
var (
	errClosed = errors.New("the message is encrypted")
	errSign   = errors.New("the message could not be signed")
)

// prepare makes what is sent of what is stored: the body is opened where it is encrypted, gets the fields that the relay's
// provider understands, and is signed. The same message gives the same bytes every time.
func (l *lane) prepare(ctx context.Context, c *queue.Claimed, body []byte) ([]byte, error) {
	// A body that was fetched later than it was claimed may have been encrypted in between: it says so itself.
	body, err := l.cfg.Keys.OpenBody(string(c.ID), body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errClosed, err)
	}
	opened := *c
	if opened.Metadata, err = l.cfg.Keys.OpenMetadata(string(c.ID), c.Metadata); err != nil {
		return nil, fmt.Errorf("%w: %w", errClosed, err)
	}
	r := l.relay()
	p := profileOf(r.Sender)
	body = stamp(p, &opened, body)
	if r.Sign == nil {
		return body, nil
	}
	if why := breaksSignatures(p); why != "" {
		l.unsigned.Do(func() {
			l.log.WarnContext(ctx, "messages are not signed", "relay", l.name, "provider", p.Name, "reason", why)
		})
		return body, nil
	}
	err = errors.New("the signer panicked")
	l.safely(ctx, "Signer.Sign", func() { body, err = r.Sign.Sign(body) })
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSign, err)
	}
	return body, nil
}

// notReady settles a message that could not be made ready. One that is encrypted is held, for it would be met again at every
// attempt and the wait would end in its deadline: with the key and a release it is sent. One that could not be signed is deferred
// like everything that an operator must mend.
func (l *lane) notReady(ctx context.Context, j *job, err error) []queue.Settlement {
	e := &smtpx.Error{Class: smtpx.ClassConfig, Err: err}
	if !errors.Is(err, errClosed) {
		return l.failed(ctx, j, e, nil, 0)
	}
	return l.every(ctx, j, queue.Settlement{Outcome: queue.Held, Uncounted: true, Evidence: evidenceOf(l.name, e, 0)})
}

// profileOf is the profile of the provider behind a sender that knows it, else the generic one.
func profileOf(s Sender) *smtpx.Profile {
	if known, ok := s.(interface{ Profile() *smtpx.Profile }); ok {
		if p := known.Profile(); p != nil {
			return p
		}
	}
	return smtpx.DetectProfile("")
}

// breaksSignatures says why a signature would not survive the provider, or nothing where it does.
func breaksSignatures(p *smtpx.Profile) string {
	switch {
	case p.Quirk(smtpx.QuirkDKIM):
		return "the provider breaks signatures"
	case p.Quirk(smtpx.QuirkMessageID) && p.Name != postmark: // which is asked to keep it
		return "the provider replaces signed fields"
	default:
		return ""
	}
}
