// Package outboxtest helps you test an application that sends e-mail with package outbox.
//
// Look into the transaction of a business function:
//
//	mail := outboxtest.RequireEnqueued(t, tx, outboxtest.Match{To: "ann@example.org", Key: "order-1001"})
//
// Deliver to an [Inbox], an SMTP server on loopback with TLS and a password, and read the mail as a person would:
//
//	inbox := outboxtest.NewInbox(t)
//	outboxtest.Deliver(t, queue, inbox)
//	mail := inbox.Require(outboxtest.Match{Subject: "Reset your password"})
//	open(mail.Links[0])
//
// Test that a message was cancelled, or that it waits:
//
//	outboxtest.RequireEnqueued(t, tx, outboxtest.Match{Tag: "reminder", State: outbox.StateCancelled})
//	outboxtest.RequireEnqueued(t, tx, outboxtest.Match{Tag: "reminder", State: outboxtest.Scheduled})
//
// Let three days pass, and deliver the reminder that is due then:
//
//	outboxtest.Advance(t, db, 72*time.Hour)
//	outboxtest.Deliver(t, queue, inbox)
//
// A [Relay] works without a network and fails on demand: test with it what the application does after a refusal, an outage or a
// lost reply. [Render] and [Golden] compare whole messages with files.
//
// Every function fails the test instead of returning an error. What it opens is closed at the end of the test. Call the functions from
// the goroutine of the test, unless their comment allows others.
package outboxtest

import "context"

// TB is the part of a [testing.TB] that this package uses.
type TB interface {
	Helper()
	Cleanup(fn func())
	Context() context.Context
	Fatalf(format string, args ...any)
}
