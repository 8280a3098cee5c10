// Package smtptest runs an SMTP server inside a test or a demo: on loopback, with TLS of its own authority, AUTH, a ledger of
// everything it accepted, and faults on request at every stage of the dialogue.
//
//	srv := smtptest.New(t, smtptest.Config{User: "app", Password: "secret"})
//	client, err := smtpx.Open(srv.URL())
//	…
//	messages, err := srv.WaitMessages(ctx, 1)
//
// [New] is for a test, [Start] for a program. The server keeps the messages that it accepts in memory and delivers none.
// All methods of [Server] may be used concurrently.
package smtptest
