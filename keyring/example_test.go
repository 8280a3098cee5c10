package keyring_test

import (
	"fmt"
	"log"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/keyring"
)

// The keys come from a file or an environment variable. The first one encrypts. Give dispatchers the same keys.
func ExampleRing() {
	const secret = `
2026-11:q3N1Y2ggYSBrZXkgaXMgMzIgYnl0ZXMgbG9uZyAhISE=  # the current key
2025-06:Zm9yIHdoYXQgd2FzIHN0b3JlZCBiZWZvcmUgMjAyNiE=
`
	keys, err := keyring.Parse(secret) // or keyring.ReadFile("/run/secrets/outbox-keys")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := outbox.New(outbox.Config{Keys: keys, SealDetails: true}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(keys.Current())
	fmt.Printf("%+v\n", keys) // never a secret
	// Output:
	// 2026-11
	// keys 2026-11, 2025-06
}
