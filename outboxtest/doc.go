// Package outboxtest helps to test applications that send e-mail with package outbox: what they enqueued, what arrives,
// and what they do when a relay fails.
//
// A test of a business function looks into its transaction:
//
//	mail := outboxtest.RequireEnqueued(t, tx, outboxtest.Match{To: "ann@example.org", Key: "order-1001"})
//
// A test from end to end delivers to an [Inbox], an SMTP server on loopback with TLS and a password, and reads what
// arrived as a person would:
//
//	inbox := outboxtest.NewInbox(t)
//	outboxtest.Deliver(t, queue, inbox)
//	mail := inbox.Require(outboxtest.Match{Subject: "Reset your password"})
//	open(mail.Links[0])
//
// A [Relay] stands in for a relay without a network, and fails on demand. [Render] and [Golden] compare whole messages
// with files.
//
// Everything here fails the test instead of returning errors, and belongs to the test it was made for: it is closed when
// that ends. Unless a comment says otherwise, functions are called from the goroutine of the test.
package outboxtest

import "context"

// TB is what this package needs of a [testing.TB].
type TB interface {
	Helper()
	Cleanup(fn func())
	Context() context.Context
	Fatalf(format string, args ...any)
}
