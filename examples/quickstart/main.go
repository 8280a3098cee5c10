// Command quickstart shows outbox at work. It places two orders, each with its e-mail in one business transaction. One
// transaction commits, the other rolls back. A dispatcher then delivers the committed e-mail.
//
// Without flags it needs nothing: the database is an SQLite file in a temporary folder, and the relay is a demo SMTP
// server on loopback.
//
//	go run ./examples/quickstart
//	go run ./examples/quickstart -db postgres://user@localhost/shop
//	go run ./examples/quickstart -relay smtp://user@smtp.example.com:587 -to you@example.com
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.As(err, new(usageError)):
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	opts, err := parse(args)
	if err != nil {
		return err
	}
	shop, err := openShop(ctx, opts.db)
	if err != nil {
		return err
	}
	defer shop.close()
	relay, err := openRelay(opts) //nolint:contextcheck // the demo server lives until it is closed
	if err != nil {
		return err
	}
	defer relay.close()
	p := printer{out}
	p.opening(shop.place, relay.place)

	// 1. Two business transactions. This part belongs to the application: see shop.go.
	kept, err := shop.placeOrder(ctx, order{item: "teapot", customer: relay.customer, from: relay.from})
	if err != nil {
		return err
	}
	lost, err := shop.placeOrder(ctx, order{item: "samovar", customer: relay.customer, from: relay.from, declined: true})
	if !errors.Is(err, errDeclined) {
		return fmt.Errorf("the second order was to be declined, got: %w", err)
	}
	p.orders(kept, lost)

	// 2. The dispatcher. A service calls Run(ctx) beside its HTTP server; here one pass is enough. The dispatcher serves only
	// the route of this example and leaves other mail in the database alone.
	d, err := dispatcher.New(dispatcher.Config{
		Queue:  shop.queue,
		Relays: []dispatcher.Relay{{Name: "quickstart", Sender: relay.client, Routes: []string{route}}},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	report, err := d.Flush(ctx)
	if err != nil {
		return err
	}
	p.report(report)

	// 3. The outcome of both orders.
	msg, err := shop.queue.Get(ctx, kept.receipt.ID)
	if err != nil {
		return err
	}
	if d := msg.Deliveries[0]; d.State != outbox.StateSent {
		return fmt.Errorf("the e-mail about order %d is %s: %s (%s)", kept.number, d.Shown(), words(d), d.Class)
	}
	arrived, err := relay.arrived(ctx)
	if err != nil {
		return err
	}
	p.arrived(arrived, msg)
	return p.proof(ctx, shop, relay, lost)
}

// options holds the flags.
type options struct{ db, relay, to, from string }

// usageError is a command line that makes no sense.
type usageError struct{ error }

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.StringVar(&o.db, "db", "", "database: postgres://… or the path of an SQLite file (default a temporary SQLite file)")
	flags.StringVar(&o.relay, "relay", "", "relay: smtp://user@host:587 or smtps://user@host:465, "+
		"password in OUTBOX_RELAY_PASSWORD (default a demo server)")
	flags.StringVar(&o.to, "to", "", "with -relay: the address that gets the e-mail")
	flags.StringVar(&o.from, "from", "", "with -relay: the address that it comes from (default that of -to)")
	err = flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return o, err
	case err != nil:
		return o, usageError{err}
	case flags.NArg() > 0:
		return o, usageError{fmt.Errorf("unexpected argument %q", flags.Arg(0))}
	case o.relay != "" && o.to == "":
		return o, usageError{errors.New("-relay needs -to: the address that gets the e-mail")}
	case o.relay == "" && (o.to != "" || o.from != ""):
		return o, usageError{errors.New("-to and -from need -relay: the demo server sends nothing anywhere")}
	}
	return o, nil
}
