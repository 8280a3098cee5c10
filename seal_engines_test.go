package outbox_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/keyring"
)

// Every driver stores the same envelope, for one message and for many, and the database shows nothing of what is in it.
func TestEncryptedMessagesOnEveryEngine(t *testing.T) {
	key, err := keyring.NewKey("k1")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.New(key)
	if err != nil {
		t.Fatal(err)
	}
	out, err := outbox.New(outbox.Config{Keys: keys, SealDetails: true})
	if err != nil {
		t.Fatal(err)
	}
	message := func(i int) *outbox.Message {
		return &outbox.Message{
			From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}},
			Subject: "A secret subject", Text: fmt.Sprint("a secret text ", i), Metadata: map[string]string{"secret": "value"},
		}
	}
	onEngines(t, func(t *testing.T, d *database) {
		tx := d.begin(t)
		receipt, err := out.Enqueue(t.Context(), tx, message(0))
		if err != nil {
			t.Fatal(err)
		}
		many, err := out.EnqueueMany(t.Context(), tx, []*outbox.Message{message(1), message(2), message(3)})
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.commit(); err != nil {
			t.Fatal(err)
		}
		for i, r := range append([]outbox.Receipt{receipt}, many...) {
			var (
				keyID, subject, metadata string
				body                     []byte
				size                     int
			)
			err := d.db.QueryRowContext(t.Context(),
				"SELECT body_key_id, subject, CAST(metadata AS TEXT), body, size FROM outbox_messages WHERE id = $1", string(r.ID)).
				Scan(&keyID, &subject, &metadata, &body, &size)
			if err != nil {
				t.Fatal(err)
			}
			if keyID != "k1" || strings.Contains(subject+metadata+string(body), "secret") {
				t.Errorf("key %q, subject %q, metadata %s, body %q", keyID, subject, metadata, body)
			}
			opened, err := keys.OpenBody(string(r.ID), body)
			if err != nil || len(opened) != size || !bytes.Contains(opened, fmt.Appendf(nil, "a secret text %d\r\n", i)) {
				t.Errorf("%d bytes of %d, %v: %q", len(opened), size, err, opened)
			}
			if s, err := keys.OpenSubject(string(r.ID), subject); err != nil || s != "A secret subject" {
				t.Errorf("subject %q, %v", s, err)
			}
		}
	})
}
