// Package templates makes the subject and the body of messages from files, such as those of an embed.FS.
//
//	set, err := templates.Load(files, templates.Config{Locale: "en"})
//	…
//	reset, err := set.Get("reset")
//	…
//	msg := &outbox.Message{To: to}
//	err = reset.Fill(msg, data, user.Locale)
//
// [Load] checks every template, so a broken one fails when the program starts and not when a message is due.
package templates
