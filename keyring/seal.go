package keyring

import (
	"bytes"
	"compress/flate"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
)

// A sealed value is an envelope that describes itself:
//
//	0x00 'O' 'B' 'X'   no message begins so: a header field never starts with NUL
//	version            1
//	flags              bit 0: the plaintext was compressed
//	n, key id          n bytes of name
//	nonce              24 random bytes
//	ciphertext         XChaCha20-Poly1305, its tag of 16 bytes at the end
//
// What is authenticated beside the ciphertext is everything before the nonce, what the value is ("body", "subject",
// "metadata"), and the id of its message. A compressed plaintext is its length as a uvarint and a stream of DEFLATE
// (RFC 1951).
const (
	sealMagic      = "\x00OBX"
	sealVersion    = 1
	sealCompressed = 1 << 0
	sealFixed      = len(sealMagic) + 3 // version, flags, n
)

// maxOpened bounds what a compressed body may become, so that one that was made by mistake or malice ends in an error.
const maxOpened = 1 << 30

// purpose says what a sealed value is, so that none can take the place of another.
type purpose string

const (
	purposeBody     purpose = "body"
	purposeSubject  purpose = "subject"
	purposeMetadata purpose = "metadata"
)

// The reasons why something that is sealed stays closed.
var (
	// ErrNoKey says that the key ring has no key of this name.
	ErrNoKey = errors.New("the key is not in the key ring")
	// ErrWrongKey says that the key of this name has another secret, or that what is stored was changed.
	ErrWrongKey = errors.New("the key does not open it: it is another key under the same name, or what is stored was changed")
	// ErrEnvelope says that what is stored is no envelope that this version knows.
	ErrEnvelope = errors.New("it is not an envelope of a known version")
)

// Error says that something stored cannot be opened. Err is [ErrNoKey], [ErrWrongKey], [ErrEnvelope], or what was wrong
// with the compressed content.
type Error struct {
	// What is "body", "subject" or "metadata", and KeyID names the key, empty where that is not known.
	What, KeyID string
	Err         error
}

// Error names the key and what is wrong.
func (e *Error) Error() string {
	if e.KeyID == "" {
		return "open the encrypted " + e.What + ": " + e.Err.Error()
	}
	return fmt.Sprintf("open the encrypted %s with key %q: %v", e.What, e.KeyID, e.Err)
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// IsSealed says whether a stored body is encrypted: it begins as no message can.
func IsSealed(body []byte) bool { return bytes.HasPrefix(body, []byte(sealMagic)) }

// OpenBody returns the rendered message that was stored for the message id. A body that is not sealed is returned as it is.
// The error is a [*Error].
func (r *Ring) OpenBody(id string, stored []byte) ([]byte, error) {
	if !IsSealed(stored) {
		return stored, nil
	}
	return r.open(id, purposeBody, stored)
}

// MetadataMark is the one key of sealed metadata. No other metadata may have it.
const MetadataMark = "outbox-sealed:"

// subjectMark begins a sealed subject. A plain subject that begins so is sealed as well where the body is.
const subjectMark = MetadataMark

// IsSealedSubject says whether a stored subject is encrypted. It may be so only where the body is.
func IsSealedSubject(stored string) bool { return strings.HasPrefix(stored, subjectMark) }

// IsSealedMetadata says whether stored metadata is encrypted.
func IsSealedMetadata(stored map[string]string) bool {
	_, ok := stored[MetadataMark]
	return ok && len(stored) == 1
}

// OpenSubject returns the subject that was stored for the message id. One that is not sealed is returned as it is. The error
// is a [*Error].
func (r *Ring) OpenSubject(id string, stored string) (string, error) {
	encoded, ok := strings.CutPrefix(stored, subjectMark)
	if !ok {
		return stored, nil
	}
	plain, err := r.openText(id, purposeSubject, encoded)
	return string(plain), err
}

// OpenMetadata returns the metadata that was stored for the message id. What is not sealed is returned as it is. The error is
// a [*Error].
func (r *Ring) OpenMetadata(id string, stored map[string]string) (map[string]string, error) {
	if !IsSealedMetadata(stored) {
		return stored, nil
	}
	text, err := r.openText(id, purposeMetadata, stored[MetadataMark])
	if err != nil {
		return nil, err
	}
	var plain map[string]string
	if err := json.Unmarshal(text, &plain); err != nil {
		return nil, &Error{What: string(purposeMetadata), Err: err}
	}
	return plain, nil
}

// openText opens an envelope in base64.
func (r *Ring) openText(id string, what purpose, encoded string) ([]byte, error) {
	sealed, err := base64.RawStdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, &Error{What: string(what), Err: ErrEnvelope}
	}
	return r.open(id, what, sealed)
}

// open opens an envelope.
func (r *Ring) open(id string, what purpose, sealed []byte) ([]byte, error) {
	plain, compressed, keyID, err := r.decrypt(id, what, sealed)
	if err == nil && compressed {
		plain, err = inflate(plain)
	}
	if err != nil {
		return nil, &Error{What: string(what), KeyID: keyID, Err: err}
	}
	return plain, nil
}

// decrypt takes an envelope apart and returns its plaintext, still compressed where it is.
func (r *Ring) decrypt(id string, what purpose, sealed []byte) (plain []byte, compressed bool, keyID string, err error) {
	keyID, head, rest, err := splitEnvelope(sealed)
	if err != nil {
		return nil, false, "", err
	}
	if r == nil || r.keys[keyID] == nil {
		return nil, false, keyID, ErrNoKey
	}
	aead := r.keys[keyID]
	n := aead.NonceSize()
	if len(rest) < n+aead.Overhead() {
		return nil, false, keyID, ErrEnvelope
	}
	plain, err = aead.Open(nil, rest[:n], rest[n:], associated(head, what, id))
	if err != nil {
		return nil, false, keyID, ErrWrongKey
	}
	return plain, head[len(sealMagic)+1]&sealCompressed != 0, keyID, nil
}

// splitEnvelope returns the name of the key, what stands before the nonce, and the rest.
func splitEnvelope(sealed []byte) (keyID string, head, rest []byte, err error) {
	if len(sealed) < sealFixed || !IsSealed(sealed) || sealed[len(sealMagic)] != sealVersion ||
		sealed[len(sealMagic)+1]&^sealCompressed != 0 {
		return "", nil, nil, ErrEnvelope
	}
	end := sealFixed + int(sealed[sealFixed-1])
	if len(sealed) < end {
		return "", nil, nil, ErrEnvelope
	}
	keyID = string(sealed[sealFixed:end])
	if (Key{ID: keyID}).checkID() != nil {
		return "", nil, nil, ErrEnvelope
	}
	return keyID, sealed[:end], sealed[end:], nil
}

// associated is what is authenticated beside the ciphertext. Neither a purpose nor an id contains a NUL.
func associated(head []byte, what purpose, id string) []byte {
	data := make([]byte, 0, len(head)+len(what)+len(id)+2)
	data = append(data, head...)
	data = append(data, 0)
	data = append(data, what...)
	data = append(data, 0)
	return append(data, id...)
}

// encrypt makes an envelope under the current key.
func (r *Ring) encrypt(id string, what purpose, plain []byte, compressed bool) ([]byte, error) {
	aead := r.keys[r.current]
	size := sealFixed + len(r.current) + aead.NonceSize() + len(plain) + aead.Overhead()
	sealed := make([]byte, 0, size)
	sealed = append(sealed, sealMagic...)
	var flags byte
	if compressed {
		flags |= sealCompressed
	}
	sealed = append(sealed, sealVersion, flags, byte(len(r.current)))
	sealed = append(sealed, r.current...)
	ad := associated(sealed, what, id)
	nonce := sealed[len(sealed) : len(sealed)+aead.NonceSize()]
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("seal the %s: %w", what, err)
	}
	sealed = sealed[:len(sealed)+len(nonce)]
	return aead.Seal(sealed, nonce, plain, ad), nil
}

// SealBody seals a rendered message. It compresses the message first if that has at least compressFrom bytes and becomes
// shorter. Zero never compresses.
func (r *Ring) SealBody(id string, body []byte, compressFrom int64) ([]byte, error) {
	if compressible(int64(len(body)), compressFrom) {
		if short, ok := deflate(body); ok {
			return r.encrypt(id, purposeBody, short, true)
		}
	}
	return r.encrypt(id, purposeBody, body, false)
}

// compressible says whether a body of n bytes is to be compressed. One that is longer than inflate would make again is not.
func compressible(n, from int64) bool { return from > 0 && n >= from && n <= maxOpened }

// sealText seals a short value and returns it as text.
func (r *Ring) sealText(id string, what purpose, plain string) (string, error) {
	sealed, err := r.encrypt(id, what, []byte(plain), false)
	return base64.RawStdEncoding.EncodeToString(sealed), err
}

// SealSubject seals a subject and returns the text that takes its place.
func (r *Ring) SealSubject(id string, subject string) (string, error) {
	sealed, err := r.sealText(id, purposeSubject, subject)
	return subjectMark + sealed, err
}

// SealMetadata seals the JSON text of metadata and returns that of the object that takes its place.
func (r *Ring) SealMetadata(id, text string) (string, error) {
	sealed, err := r.sealText(id, purposeMetadata, text)
	if err != nil {
		return "", err
	}
	object, err := json.Marshal(map[string]string{MetadataMark: sealed})
	return string(object), err
}

// deflaters are kept because one takes more than a MiB of memory.
var deflaters = sync.Pool{New: func() any {
	w, err := flate.NewWriter(io.Discard, flate.DefaultCompression)
	if err != nil {
		panic(err) // the level is one that exists
	}
	return w
}}

// deflate compresses a body. It is false where that gains less than an eighth.
func deflate(body []byte) ([]byte, bool) {
	var out bytes.Buffer
	out.Grow(len(body)/2 + binary.MaxVarintLen64)
	out.Write(binary.AppendUvarint(nil, uint64(len(body))))
	w, _ := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(w)
	w.Reset(&out)
	if _, err := w.Write(body); err != nil { // a buffer does not fail
		return nil, false
	}
	if err := w.Close(); err != nil {
		return nil, false
	}
	return out.Bytes(), out.Len() < len(body)-len(body)/8
}

// inflate undoes deflate. It never makes more than the length that stands before the stream.
func inflate(compressed []byte) ([]byte, error) {
	n, used := binary.Uvarint(compressed)
	if used <= 0 || n > maxOpened {
		return nil, fmt.Errorf("%w: the length of the compressed content is wrong", ErrEnvelope)
	}
	r := flate.NewReader(bytes.NewReader(compressed[used:]))
	defer func() { _ = r.Close() }()
	var out bytes.Buffer
	out.Grow(int(min(n, uint64(len(compressed))*64)))
	got, err := io.Copy(&out, io.LimitReader(r, int64(n)+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: the compressed content is broken: %w", ErrEnvelope, err)
	case got != int64(n):
		return nil, fmt.Errorf("%w: the compressed content has another length than it says", ErrEnvelope)
	}
	return out.Bytes(), nil
}
