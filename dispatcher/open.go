package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// Signer adds signatures to a message before it is sent. Package dkim has one. Sign is called concurrently and for every attempt.
// It must return the same bytes for the same message, and must not keep or change the body. If it fails, the message is not sent
// and is tried again later; an operator has to mend the cause.
type Signer interface {
	Sign(body []byte) ([]byte, error)
}

// The reasons why a message cannot be prepared. An operator has to mend them.
var (
	errClosed = errors.New("the message cannot be decrypted")
	errSign   = errors.New("the message could not be signed")
)

// prepare turns a stored body into the bytes to send: it decrypts the body, adds the fields that the provider reads, and signs
// it. The same message gives the same bytes every time.
func (co *courier) prepare(ctx context.Context, c *queue.Claimed, body []byte) ([]byte, error) {
	// The body may have been encrypted between claim and fetch. OpenBody sees that in the body itself.
	body, err := co.cfg.Keys.OpenBody(string(c.ID), body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errClosed, err)
	}
	opened := *c
	if opened.Metadata, err = co.cfg.Keys.OpenMetadata(string(c.ID), c.Metadata); err != nil {
		return nil, fmt.Errorf("%w: %w", errClosed, err)
	}
	r := co.relay()
	p := genericProfile()
	co.guard.call(ctx, "Sender.Profile", func() { p = profileOf(r.Sender) })
	body = stamp(p, &opened, body)
	if r.Sign == nil {
		return body, nil
	}
	if why := breaksSignatures(p); why != "" {
		co.unsigned.Do(func() {
			co.log.WarnContext(ctx, "messages are not signed", "relay", co.name, "provider", p.Name, "reason", why)
		})
		return body, nil
	}
	err = errors.New("the signer panicked")
	co.guard.call(ctx, "Signer.Sign", func() { body, err = r.Sign.Sign(body) })
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSign, err)
	}
	return body, nil
}

// notReady settles a message that could not be prepared. If its key is missing it is held: further attempts would fail alike
// until its deadline. If it could not be signed it is deferred, as after every fault of the configuration.
func (co *courier) notReady(ctx context.Context, j *job, err error) delivered {
	e := &smtpx.Error{Class: smtpx.ClassConfig, Err: err}
	if !errors.Is(err, errClosed) {
		return co.failed(ctx, j, e, nil, 0)
	}
	return co.settleAll(ctx, j, queue.Settlement{Outcome: queue.Held, Uncounted: true, Evidence: evidenceOf(co.name, e, 0)})
}

// genericProfile is the profile of an unknown provider.
var genericProfile = sync.OnceValue(func() *smtpx.Profile { return smtpx.DetectProfile("") })

// profileOf returns the profile that a sender tells, or else the generic one.
func profileOf(s Sender) *smtpx.Profile {
	if known, ok := s.(interface{ Profile() *smtpx.Profile }); ok {
		if p := known.Profile(); p != nil {
			return p
		}
	}
	return genericProfile()
}

// breaksSignatures says why a provider would break a signature. Empty means that it would not.
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
