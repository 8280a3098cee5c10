// Package keyring encrypts messages at rest and decrypts them again.
//
// Each value is sealed with XChaCha20-Poly1305 under a random nonce. The seal is bound to the message and the column, so no
// value can be moved to another row. A [Ring] holds one key that seals and any number of older ones that only open.
//
// The package stores nothing and starts nothing.
package keyring
