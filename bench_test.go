package outbox

import (
	"context"
	"strings"
	"testing"
)

// typical is a message of the kind that most applications send: 2 KB of text and HTML.
func typical() *Message {
	line := "Thank you for your order. We have packed it with care & it leaves our house today – dès aujourd’hui.\n"
	return &Message{
		From:    Address{Name: "Ann's Shop", Address: "shop@example.com"},
		To:      []Address{{Name: "Jörg Müller", Address: "joerg@example.org"}},
		Subject: "Your order № 1001 is on its way",
		Text:    strings.Repeat(line, 9),
		HTML:    "<html><body>" + strings.Repeat("<p>"+line+"</p>", 9) + "</body></html>",
		Key:     "order-1001",
	}
}

// TestRenderAllocates keeps composing free of detours: go-message is given finished blocks of fields. The least of several runs
// counts, because the collector and the race detector empty pools at random.
func TestRenderAllocates(t *testing.T) {
	const most = 50
	msg, least := typical(), 1e9
	for range 5 {
		least = min(least, testing.AllocsPerRun(20, func() {
			if _, err := standard.draft(context.Background(), msg, "", standard.now()); err != nil {
				t.Fatal(err)
			}
		}))
	}
	if least > most {
		t.Errorf("rendering a letter of 2 KB allocates %v times, more than %d", least, most)
	}
}

func BenchmarkRender(b *testing.B) {
	msg := typical()
	b.ReportAllocs()
	for b.Loop() {
		d, err := standard.draft(context.Background(), msg, "", standard.now())
		if err != nil {
			b.Fatal(err)
		}
		if len(d.body) < 2000 {
			b.Fatal("too short")
		}
	}
}

func BenchmarkRenderAttachment(b *testing.B) {
	msg := typical()
	msg.Attachments = []Attachment{{Name: "plan.pdf", Data: make([]byte, 1<<20)}}
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := standard.draft(context.Background(), msg, "", standard.now()); err != nil {
			b.Fatal(err)
		}
	}
}
