package keyring

import (
	"bufio"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/outboxmail/outbox/internal/textfile"
)

// keySize is the length of a secret in bytes.
const keySize = chacha20poly1305.KeySize

// maxKeyID is the longest name of a key in bytes. An envelope holds its length in one byte.
const maxKeyID = 63

// maxKeyFile is the largest key file in bytes.
const maxKeyFile = 64 << 10

// Key is a named secret for messages at rest. fmt, slog and json never show the secret; only [Key.Text] does.
type Key struct {
	// ID names the key. The database holds it in clear. It has 1 to 63 bytes: letters, digits, '.', '_' and '-'. Never use
	// it again for another secret.
	ID string
	// Secret is 32 random bytes.
	Secret []byte
}

// NewKey makes a key with a random secret. It returns an error if id does not follow the rules of Key.ID.
func NewKey(id string) (Key, error) {
	k := Key{ID: id, Secret: make([]byte, keySize)}
	if _, err := rand.Read(k.Secret); err != nil {
		return Key{}, fmt.Errorf("make a key: %w", err)
	}
	return k, k.check()
}

// Text returns the key as a line of a key file: the name, a colon, and the secret in base64.
func (k Key) Text() string { return k.ID + ":" + base64.StdEncoding.EncodeToString(k.Secret) }

// String names the key and does not show its secret.
func (k Key) String() string { return "key " + k.ID }

// GoString does not show the secret either.
func (k Key) GoString() string { return "keyring.Key{ID:" + strconv.Quote(k.ID) + "}" }

// Format does not show the secret with any verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue does not show the secret.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalJSON returns the name alone.
func (k Key) MarshalJSON() ([]byte, error) { return []byte(strconv.Quote(k.ID)), k.checkID() }

// check checks the name and the secret. Its errors repeat neither, because a misplaced secret may stand where the name belongs.
func (k Key) check() error {
	if err := k.checkID(); err != nil {
		return err
	}
	if len(k.Secret) != keySize {
		return fmt.Errorf("the secret has %d bytes, not %d", len(k.Secret), keySize)
	}
	for _, b := range k.Secret {
		if b != 0 {
			return nil
		}
	}
	return errors.New("the secret is all zero")
}

func (k Key) checkID() error {
	if k.ID == "" || len(k.ID) > maxKeyID {
		return fmt.Errorf("the name of a key must have 1 to %d bytes", maxKeyID)
	}
	for i := range len(k.ID) {
		if c := k.ID[i]; !isAlphanumeric(c) && c != '.' && c != '_' && c != '-' {
			// The error does not quote the name, which may be a misplaced secret.
			return errors.New("the name of a key may contain only letters, digits, '.', '_' and '-'")
		}
	}
	return nil
}

// Ring encrypts with its first key and decrypts with any of its keys. Keep an older key as long as stored messages need it.
//
// A Ring does not change and is safe for concurrent use. A nil Ring decrypts nothing. No printed form shows a secret.
type Ring struct {
	current string
	keys    map[string]cipher.AEAD
	ids     []string // the current one first
}

// New makes a key ring from at least one key. The first key encrypts; every key decrypts. New copies the secrets. It returns an
// error if two keys have the same name.
func New(keys ...Key) (*Ring, error) {
	if len(keys) == 0 {
		return nil, errors.New("key ring: there is no key")
	}
	r := &Ring{current: keys[0].ID, keys: make(map[string]cipher.AEAD, len(keys))}
	for i, k := range keys {
		if err := k.check(); err != nil {
			return nil, fmt.Errorf("key ring: key %d: %w", i+1, err)
		}
		if _, twice := r.keys[k.ID]; twice {
			return nil, fmt.Errorf("key ring: key %s is there twice", k.ID)
		}
		aead, err := chacha20poly1305.NewX(k.Secret)
		if err != nil {
			return nil, fmt.Errorf("key ring: key %s: %w", k.ID, err)
		}
		r.keys[k.ID] = aead
		r.ids = append(r.ids, k.ID)
	}
	return r, nil
}

// Parse reads keys in the form of [Key.Text], the current key first. The text may come from a file or an environment variable.
//
// Line breaks, commas or spaces separate the keys. A # begins a comment. A secret is 32 bytes in base64, with or without padding;
// `openssl rand -base64 32` makes one. Parse skips a byte order mark and refuses UTF-16. Errors never repeat the input.
func Parse(text string) (*Ring, error) {
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("key ring: there are more than %d bytes", maxKeyFile)
	}
	text, err := textfile.TrimString(text)
	if err != nil {
		return nil, fmt.Errorf("key ring: the text %w", err)
	}
	var keys []Key
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, maxKeyFile+1)
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		for _, word := range strings.FieldsFunc(line, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\r' }) {
			k, err := parseKey(word)
			if err != nil {
				return nil, fmt.Errorf("key ring: line %d: %w", n, err)
			}
			keys = append(keys, k)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("key ring: %w", err)
	}
	return New(keys...)
}

// parseKey reads one key. Its errors do not repeat the name, because a user may have swapped name and secret.
func parseKey(word string) (Key, error) {
	id, encoded, ok := strings.Cut(word, ":")
	if !ok {
		return Key{}, errors.New("a key must be written as NAME:SECRET, the secret in base64")
	}
	secret, err := base64.RawStdEncoding.Strict().DecodeString(strings.TrimRight(encoded, "="))
	k := Key{ID: id, Secret: secret}
	if idErr := k.checkID(); idErr != nil {
		return Key{}, idErr
	}
	if err != nil {
		return Key{}, errors.New("the secret is not base64")
	}
	return k, k.check()
}

// ReadFile reads the keys in a file, in the form of [Parse]. Only the service should be able to read the file.
func ReadFile(path string) (*Ring, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("key ring: %w", err)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("key ring: %w", err)
	}
	r, err := Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// Current returns the name of the key that encrypts. It is empty for a nil Ring.
func (r *Ring) Current() string {
	if r == nil {
		return ""
	}
	return r.current
}

// IDs returns the names of the keys, the current one first.
func (r *Ring) IDs() []string {
	if r == nil {
		return nil
	}
	return append([]string(nil), r.ids...)
}

// String names the keys and shows no secret.
func (r *Ring) String() string {
	if r == nil {
		return "no keys"
	}
	return "keys " + strings.Join(r.ids, ", ")
}

// GoString shows no secret either.
func (r *Ring) GoString() string { return "keyring.Ring{" + r.String() + "}" }

// Format shows no secret with any verb.
func (r *Ring) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, r.String()) }

// LogValue shows no secret.
func (r *Ring) LogValue() slog.Value { return slog.StringValue(r.String()) }

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
