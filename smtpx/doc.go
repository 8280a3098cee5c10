// Package smtpx is an SMTP submission client. It sends complete messages through a relay and reports the exact outcome for each
// recipient.
//
// # What it guarantees
//
//   - A message is transferred whole or not at all. Bodies are complete before MAIL. After a failure inside DATA the socket is
//     closed without another octet, and no server can take a fragment for a message.
//   - No outcome is guessed. A failure before the final dot means "not sent". A negative reply means "refused". A connection
//     that is lost between the final dot and the reply is [ClassAmbiguous], as is a reply that is none. After the 250 nothing
//     changes the result.
//   - The first negative reply is the verdict, in the server's words, even if the connection dies after it.
//   - Credentials are sent over verified TLS only, unless the host is loopback or the configuration allows more. They never
//     appear in an error, a log line or [Client.String], even if the server repeats them.
//
// # Steps
//
// [Open] checks a URL and its options and starts nothing. [Client.Send] takes a connection from the pool, opens one if needed,
// and returns when the outcome for every recipient is known. [Client.Probe] talks to the relay without sending.
// [Client.Close] says QUIT on the idle connections and waits for everything that the client started.
//
//	relay, err := smtpx.Open("smtp://user@smtp.example.com:587", smtpx.Password(secret))
//	…
//	result, err := relay.Send(ctx, smtpx.Envelope{From: from, To: to}, message)
//
// Package smtpx says what a reply means ([Class]). What to do about it is the caller's decision.
package smtpx
