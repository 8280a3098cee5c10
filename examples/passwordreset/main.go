// Command passwordreset shows how to send a mail with a secret:
//
//   - The mail comes from a template and is encrypted in the database.
//   - It expires after ten minutes.
//   - A newer mail to the same user withdraws it.
//   - After it is sent, its body is removed.
//
// It needs nothing: the database is an SQLite file in a temporary folder, the relay is a demo SMTP server on loopback, and the
// keys are new. A service reads its keys from a file or from OUTBOX_KEYS; see keyring.ReadFile.
//
//	go run ./examples/passwordreset
//	go run ./examples/passwordreset -db postgres://user@localhost/shop
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/keyring"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "passwordreset:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("passwordreset", flag.ContinueOnError)
	name := flags.String("db", "", "database: a path, or postgres://… (default an SQLite file in a temporary folder)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	key, err := keyring.NewKey("demo-" + time.Now().UTC().Format("2006-01"))
	if err != nil {
		return err
	}
	keys, err := keyring.New(key)
	if err != nil {
		return err
	}
	db, err := openDatabase(ctx, *name)
	if err != nil {
		return err
	}
	defer db.close()
	resets, err := newResets(db.db, keys)
	if err != nil {
		return err
	}
	if err := resets.prepare(ctx); err != nil {
		return err
	}
	server, err := smtptest.Start(smtptest.Config{User: "shop", Password: "open sesame"}) //nolint:contextcheck // lives until it is closed
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	s := &story{out: out, db: db, keys: keys, server: server}
	return s.tell(ctx, resets, user{name: "Ann", address: fmt.Sprintf("ann+%d@example.org", time.Now().UnixNano())})
}

// story runs the steps of the example and prints them.
type story struct {
	out    io.Writer
	db     *database
	keys   *keyring.Ring
	server *smtptest.Server
}

func (s *story) linef(format string, args ...any) { _, _ = fmt.Fprintf(s.out, format+"\n", args...) }

func (s *story) tell(ctx context.Context, resets *resets, ann user) error {
	s.linef("database  %s", s.db.place)
	first, err := resets.ask(ctx, ann)
	if err != nil {
		return err
	}
	s.linef("\n1. Ann asks for a new password: a link and its mail, in one transaction")
	if err := s.stored(ctx, first); err != nil {
		return err
	}

	second, err := resets.ask(ctx, ann)
	if err != nil {
		return err
	}
	s.linef("\n2. She asks again: in one transaction a new link, its mail, and the end of the first")
	if err := s.show(ctx, "first mail", first); err != nil {
		return err
	}
	if err := s.show(ctx, "second mail", second); err != nil {
		return err
	}

	if err := s.deliver(ctx); err != nil {
		return err
	}
	if err := s.arrived(first, second); err != nil {
		return err
	}
	return s.scrub(ctx, second)
}

// stored prints the row in the database and checks that it does not contain the secret.
func (s *story) stored(ctx context.Context, r request) error {
	row, err := s.db.row(ctx, r.receipt.ID)
	if err != nil {
		return err
	}
	rendered, err := s.keys.OpenBody(string(r.receipt.ID), row.body)
	if err != nil {
		return err
	}
	s.linef("   body in the database      %d bytes, encrypted with key %s: %x…", len(row.body), row.keyID.String, row.body[:8])
	s.linef("   subject in the database   encrypted: %v", keyring.IsSealedSubject(row.subject))
	found, err := s.db.holds(row, r.token)
	if err != nil {
		return err
	}
	s.linef("   the token stands there    %d times", found)
	s.linef("   with the key it opens     %d bytes, with the token: %v", len(rendered), bytes.Contains(rendered, []byte(r.token)))
	if found > 0 || !bytes.Contains(rendered, []byte(r.token)) {
		return errors.New("the token is not where it should be")
	}
	message, err := s.db.queue.Get(ctx, r.receipt.ID)
	if err != nil {
		return err
	}
	s.linef("   it is not sent after      %v", message.ExpiresAt.Sub(message.CreatedAt).Round(time.Minute))
	return nil
}

func (s *story) show(ctx context.Context, what string, r request) error {
	row, err := s.db.row(ctx, r.receipt.ID)
	if err == nil {
		s.linef("   %-25s %s", what, row.state)
	}
	return err
}

// deliver sends the due mail. A service calls Run of its dispatcher beside the HTTP server, with a Retention.
func (s *story) deliver(ctx context.Context) error {
	client, err := smtpx.Open(s.server.URL())
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	d, err := dispatcher.New(dispatcher.Config{
		Queue: s.db.queue, Keys: s.keys, Logger: slog.New(slog.DiscardHandler),
		Relays: []dispatcher.Relay{{Name: "passwordreset", Sender: client, Routes: []string{route}}},
	})
	if err != nil {
		return err
	}
	report, err := d.Flush(ctx)
	s.linef("\n3. The dispatcher, which has the key, delivers")
	s.linef("   sent %d, held %d, failed %d", report.Sent, report.Held, report.Failed)
	return err
}

func (s *story) arrived(first, second request) error {
	messages := s.server.Messages()
	for _, m := range messages {
		s.linef("   mail for %s", m.To[0])
		s.linef("   has the second link       %v", bytes.Contains(m.Data, []byte(second.token)))
		s.linef("   has the first link        %v", bytes.Contains(m.Data, []byte(first.token)))
	}
	if len(messages) != 1 || !bytes.Contains(messages[0].Data, []byte(second.token)) {
		return fmt.Errorf("%d mails arrived, want that with the second link", len(messages))
	}
	return nil
}

// keepBody is the time to keep the body of a sent message, here almost none.
const keepBody = time.Millisecond

// scrub removes the body of the sent message. In a service, Run removes bodies after the times in its Retention.
func (s *story) scrub(ctx context.Context, r request) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	scrubbed := 0
	for {
		report, err := s.db.queue.Clean(ctx, queue.Retention{Body: keepBody})
		if err != nil {
			return err
		}
		scrubbed += report.Scrubbed
		row, err := s.db.row(ctx, r.receipt.ID)
		if err != nil {
			return err
		}
		if row.body == nil {
			s.linef("\n4. And afterwards")
			s.linef("   state %s, body %s, metadata %s", row.state, null(row.body == nil), null(!row.metadata.Valid))
			s.linef("   bodies removed            %d", scrubbed)
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("the body is still there")
		case <-time.After(keepBody): // the message is not old enough yet
		}
	}
}

func null(is bool) string {
	if is {
		return "NULL"
	}
	return "still there"
}
