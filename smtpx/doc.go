// Package smtpx is an SMTP submission client: it hands complete messages to a relay and says precisely what became of
// them.
//
// # What it guarantees
//
//   - A message is transferred whole or not at all. Bodies are complete before MAIL; after any failure inside DATA the
//     socket is closed without another byte, so that no server can mistake a fragment for a message.
//   - The outcome is never guessed. Before the final dot a failure means "not sent"; a negative reply means "refused"; a
//     connection lost between the final dot and the reply is [ClassAmbiguous], and nothing else is. After the 250 nothing
//     changes the result.
//   - The first negative reply is the verdict, in the server's own words, even if the connection dies after it.
//   - Credentials travel over verified TLS only, unless the host is loopback or the configuration says otherwise, and never
//     appear in an error, a log line or [Client.String].
//
// # Steps
//
// [Open] checks a URL and its options and starts nothing. [Client.Send] takes a connection from the pool, opening one if
// needed, and returns when the outcome of every recipient is known. [Client.Probe] talks to the relay without sending.
// [Client.Close] says QUIT on the idle connections and waits for everything the client started.
//
//	relay, err := smtpx.Open("smtp://user@smtp.example.com:587", smtpx.Password(secret))
//	…
//	result, err := relay.Send(ctx, smtpx.Envelope{From: from, To: to}, message)
//
// Package smtpx knows what a reply means ([Class]); what to do about it is the caller's decision.
package smtpx
