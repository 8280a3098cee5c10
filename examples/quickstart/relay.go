package main

import (
	"context"
	"os"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// relay is the SMTP server that takes the mail.
type relay struct {
	client   *smtpx.Client
	demo     *smtptest.Server // nil for a real relay
	place    string           // its description in the output
	from     outbox.Address
	customer outbox.Address
}

// openRelay makes a client for the relay in the flags. Without one it starts a demo server with TLS and AUTH on loopback.
func openRelay(o options) (*relay, error) {
	if o.relay != "" {
		return openRealRelay(o)
	}
	server, err := smtptest.Start(smtptest.Config{User: "shop", Password: "open sesame"})
	if err != nil {
		return nil, err
	}
	client, err := smtpx.Open(server.URL())
	if err != nil {
		_ = server.Close()
		return nil, err
	}
	return &relay{
		client:   client,
		demo:     server,
		place:    "demo SMTP server on " + server.Addr() + ", which asks for TLS and a password",
		from:     outbox.Address{Name: "Corner Shop", Address: "shop@example.com"},
		customer: outbox.Address{Name: "Ann", Address: "ann@example.org"},
	}, nil
}

func openRealRelay(o options) (*relay, error) {
	var opts []smtpx.Option
	if password := os.Getenv("OUTBOX_RELAY_PASSWORD"); password != "" {
		opts = append(opts, smtpx.Password(password))
	}
	client, err := smtpx.Open(o.relay, opts...)
	if err != nil {
		return nil, err
	}
	from := o.from
	if from == "" {
		from = o.to
	}
	return &relay{
		client:   client,
		place:    client.String(),
		from:     outbox.Address{Name: "Corner Shop", Address: from},
		customer: outbox.Address{Address: o.to},
	}, nil
}

func (r *relay) close() {
	_ = r.client.Close()
	if r.demo != nil {
		_ = r.demo.Close()
	}
}

// arrived returns the messages at the demo server. For a real relay it returns none.
func (r *relay) arrived(ctx context.Context) ([]smtptest.Message, error) {
	if r.demo == nil {
		return nil, nil
	}
	return r.demo.WaitMessages(ctx, 1)
}
