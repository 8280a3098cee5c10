package main

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/wneessen/go-mail"

	"github.com/outboxmail/outbox"
)

// The letter of P12 has 2 KB of text and HTML.
const (
	renderedLine    = "Thank you for your order. We have packed it with care & it leaves our house today – dès aujourd’hui.\n"
	renderedSubject = "Your order № 1001 is on its way"
)

func renderedText() (text, html string) {
	return strings.Repeat(renderedLine, 9), "<html><body>" + strings.Repeat("<p>"+renderedLine+"</p>", 9) + "</body></html>"
}

// render is P12: composing alone, by one goroutine.
func (b *bench) render() error {
	text, html := renderedText()
	msg := &outbox.Message{
		From: outbox.Address{Name: "Ann's Shop", Address: "shop@example.com"}, To: []outbox.Address{{Name: "Jörg Müller", Address: "joerg@example.org"}},
		Subject: renderedSubject, Text: text, HTML: html,
	}
	id, at := outbox.ID(uuid.Must(uuid.NewV7()).String()), time.Now()
	const work, turns = "P12 rendering a letter of 2 KB, text and HTML", 20_000
	for _, c := range []struct {
		who    string
		render func() error
		bar    float64 // allocations
	}{
		{ours, func() error {
			_, err := outbox.Render(msg, id, at)
			return err
		}, 50},
		{"go-mail", func() error {
			m := mail.NewMsg()
			if err := m.FromFormat(msg.From.Name, msg.From.Address); err != nil {
				return err
			}
			if err := m.AddToFormat(msg.To[0].Name, msg.To[0].Address); err != nil {
				return err
			}
			m.Subject(renderedSubject)
			m.SetBodyString(mail.TypeTextPlain, text)
			m.AddAlternativeString(mail.TypeTextHTML, html)
			_, err := m.WriteTo(io.Discard)
			return err
		}, 0},
	} {
		f := &figures{}
		var failed error
		once := func() {
			if err := c.render(); err != nil {
				failed = err
			}
		}
		for range b.rounds {
			err := f.add(b.share(turns), func() error {
				for range b.share(turns) {
					once()
				}
				return failed
			})
			if err != nil {
				return fmt.Errorf("%s: %w", c.who, err)
			}
		}
		allocations := testing.AllocsPerRun(100, once)
		r := result{work: work, who: c.who, figures: f, more: fmt.Sprintf("%.0f allocations", allocations)}
		if c.bar > 0 {
			r.bar, r.met = fmt.Sprintf("≤ %.0f allocations", c.bar), allocations <= c.bar
		}
		b.report(r)
	}
	return nil
}
