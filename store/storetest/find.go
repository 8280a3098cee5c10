package storetest

import (
	"errors"
	"strings"

	"github.com/google/uuid"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/store"
)

func findRules() []rule {
	return []rule{
		{"id", "A message is found by its id, in any case, with or without dashes.", func(w *world) {
			id := w.enqueue(mail())
			w.many(3)
			w.finds(string(id), id)
			w.finds(strings.ToUpper(string(id)), id)
			w.finds(strings.ReplaceAll(string(id), "-", ""), id)
			w.finds(" "+string(id)+"\n", id)
		}},
		{"prefix", "A message is found by the beginning of its id, when no other begins so.", func(w *world) {
			id := w.plant("01890000-0000-7000-8000-00000000abcd")
			w.plant("01890001-0000-7000-8000-00000000ffff")
			for _, name := range []string{"01890000", "01890000-", "01890000-0000-7000", "018900000"} {
				w.finds(name, id)
			}
		}},
		{"suffix", "A message is found by the end of its id, also over a dash, when no other ends so.", func(w *world) {
			id := w.plant("01890000-0000-7000-8000-12345678abcd")
			w.plant("01890000-0000-7000-8000-12345678ffff")
			for _, name := range []string{"abcd", "ABCD", "8abcd", "12345678abcd", "8000-12345678abcd", "800012345678abcd", "000-12345678abcd"} {
				w.finds(name, id)
			}
		}},
		{"message-id", "A message is found by its Message-ID, with or without its brackets.", func(w *world) {
			id := w.enqueue(mail())
			w.many(3)
			rfc := w.get(id).MessageID
			w.finds(rfc, id)
			w.finds(strings.Trim(rfc, "<>"), id)
		}},
		{"foreign-message-id", "A message that brought its own Message-ID is found by that.", func(w *world) {
			id := w.enqueue(mail(raw("Message-ID: <it's.mine@elsewhere.example>\r\nFrom: a@example.com\r\nTo: b@example.org\r\n\r\nx\r\n")))
			w.many(3)
			w.finds("<it's.mine@elsewhere.example>", id)
			w.finds("it's.mine@elsewhere.example", id)
		}},
		{"message-id-of-another", "A Message-ID that only resembles one of ours is not found.", func(w *world) {
			id := w.enqueue(mail())
			w.missing("<" + string(id) + "@elsewhere.example>")
			w.missing("<" + uuid.NewString() + "@example.com>")
		}},
		{"unknown", "What is not there is ErrNotFound, and so is what can be no name.", func(w *world) {
			w.many(3)
			for _, name := range []string{uuid.NewString(), "ffffffff", "nobody@example.com", "", "abc", "xyzw", "%%%%", "____",
				strings.Repeat("0", 33), "@"} {
				w.missing(name)
			}
		}},
		{"ambiguous", "A name that more than one message answers to is refused, with candidates.", func(w *world) {
			a, b := w.plant("01890000-0000-7000-8000-00000000abcd"), w.plant("01890000-0000-7000-8000-00001000abcd")
			for _, name := range []string{"01890000", "abcd"} {
				_, err := w.store.Find(w.Context(), name)
				var ambiguous *store.AmbiguousError
				if !errors.As(err, &ambiguous) {
					w.violatedf("%s: the error is %v", name, err)
					continue
				}
				want(w, "candidates", ambiguous.Candidates, []outbox.ID{a, b})
			}
			w.refused(func() error { _, err := w.store.Find(w.Context(), "abcd"); return err }(), string(a), string(b))
		}},
		{"ambiguous-message-id", "Two messages with one Message-ID of their own are not told apart by it.", func(w *world) {
			w.many(2, raw("Message-ID: <same@elsewhere.example>\r\nFrom: a@example.com\r\nTo: b@example.org\r\n\r\nx\r\n"))
			_, err := w.store.Find(w.Context(), "<same@elsewhere.example>")
			var ambiguous *store.AmbiguousError
			want(w, "is ambiguous", errors.As(err, &ambiguous), true)
		}},
	}
}

func (w *world) finds(name string, expected outbox.ID) {
	w.Helper()
	id, err := w.store.Find(w.Context(), name)
	if err != nil || id != expected {
		w.violatedf("%q finds %q (%v), want %s", name, id, err, expected)
	}
}

func (w *world) missing(name string) {
	w.Helper()
	if id, err := w.store.Find(w.Context(), name); !errors.Is(err, store.ErrNotFound) {
		w.violatedf("%q finds %q (%v)", name, id, err)
	}
}

// plant stores a message under a given id. It uses plain SQL, as a program in another language would.
func (w *world) plant(id outbox.ID) outbox.ID {
	w.Helper()
	w.exec(`INSERT INTO outbox_messages (id, message_id, sender, recipients, size, body)
VALUES ($1, $2, 'shop@example.com', '["ann@example.org"]', 3, $3)`,
		string(id), "<"+string(id)+"@example.com>", []byte("abc"))
	return id
}
