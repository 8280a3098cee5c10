package templates_test

import (
	"embed"
	"fmt"
	"io/fs"
	"log"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/templates"
)

//go:embed testdata/mail
var mailFiles embed.FS

// button is what the partial of that name shows.
type button struct{ Link, Label string }

// Templates are loaded once, when the program starts: what they cannot do is found then.
func ExampleLoad() {
	folder, err := fs.Sub(mailFiles, "testdata/mail")
	if err != nil {
		log.Fatal(err)
	}
	set, err := templates.Load(folder, templates.Config{
		Locale: "en",
		Funcs:  map[string]any{"button": func(link, label string) button { return button{link, label} }},
	})
	if err != nil {
		log.Fatal(err)
	}
	reset, err := set.Get("reset")
	if err != nil {
		log.Fatal(err)
	}
	data := map[string]any{"Name": "Jörg & Co", "Minutes": 10, "Link": "https://example.com/reset?token=abc"}

	msg := &outbox.Message{To: []outbox.Address{{Address: "joerg@example.org"}}}
	if err := reset.Fill(msg, data, "de-AT", "en"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(msg.Subject)
	fmt.Println(msg.HTML)

	preview, err := reset.Preview(data) // for a page that designers look at
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("---", preview.Locale)
	fmt.Println(preview.Text)
	// Output:
	// Neues Passwort, Jörg & Co
	// <!DOCTYPE html>
	// <html lang="de">
	// <body>
	// <p>Guten Tag Jörg &amp; Co,</p>
	// <p>wählen Sie innerhalb von 10 Minuten ein neues Passwort:</p>
	// <p><a href="https://example.com/reset?token=abc">Neues Passwort</a></p>
	// <hr>
	// <p>Corner Shop, Hauptstraße 1</p>
	// </body>
	// </html>
	// --- en
	// Hello Jörg & Co,
	//
	// choose a new password within 10 minutes:
	// https://example.com/reset?token=abc
	//
	// Corner Shop, 1 High Street
}
