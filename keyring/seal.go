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
//	0x00 'O' 'B' 'X'   starts no message: a header field never begins with NUL
//	version            1
//	flags              bit 0: the plaintext was compressed
//	n, key id          n bytes of name
//	nonce              24 random bytes
//	ciphertext         XChaCha20-Poly1305, its tag of 16 bytes at the end
//
// The tag also authenticates everything before the nonce, the purpose of the value ("body", "subject", "metadata"), and the id
// of its message. A compressed plaintext is its length as a uvarint and a stream of DEFLATE (RFC 1951).
const (
	sealMagic      = "\x00OBX"
	sealVersion    = 1
	sealCompressed = 1 << 0
	sealFixed      = len(sealMagic) + 3 // version, flags, n
)

// maxOpened is the largest decompressed body in bytes. A larger one, made by mistake or malice, is an error.
const maxOpened = 1 << 30

// purpose is the kind of a sealed value. A value sealed for one purpose does not open for another.
type purpose string

const (
	purposeBody     purpose = "body"
	purposeSubject  purpose = "subject"
	purposeMetadata purpose = "metadata"
)

// The reasons why a sealed value cannot be opened.
var (
	// ErrNoKey says that the key ring has no key with the name in the envelope.
	ErrNoKey = errors.New("the key is not in the key ring")
	// ErrWrongKey says that the key with this name has another secret, or that the stored value was changed.
	ErrWrongKey = errors.New("the key does not open it: it is another key under the same name, or what is stored was changed")
	// ErrEnvelope says that the stored value is not an envelope of a known version, or that its compressed content is broken.
	ErrEnvelope = errors.New("it is not an envelope of a known version")
)

// Error says that a stored value cannot be opened. Err is or wraps [ErrNoKey], [ErrWrongKey] or [ErrEnvelope], or says why the
// decrypted metadata are not valid.
type Error struct {
	// What is "body", "subject" or "metadata". KeyID names the key; it is empty if the key is unknown.
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

// IsSealed says whether a stored body is encrypted. No plain message has the first bytes of an encrypted one.
func IsSealed(body []byte) bool { return bytes.HasPrefix(body, []byte(sealMagic)) }

// OpenBody decrypts the stored body of the message id. It returns a plain body unchanged. Errors are of type [*Error].
func (r *Ring) OpenBody(id string, stored []byte) ([]byte, error) {
	if !IsSealed(stored) {
		return stored, nil
	}
	return r.open(id, purposeBody, stored)
}

// MetadataMark is the only key of sealed metadata. Plain metadata must not have it.
const MetadataMark = "outbox-sealed:"

// subjectMark is the prefix of a sealed subject. When the body is sealed, a plain subject with this prefix is sealed, too.
const subjectMark = MetadataMark

// IsSealedSubject says whether a stored subject has the prefix of an encrypted one. In a message without a key id, such a subject
// is plain: the sender wrote it.
func IsSealedSubject(stored string) bool { return strings.HasPrefix(stored, subjectMark) }

// IsSealedMetadata says whether stored metadata is encrypted.
func IsSealedMetadata(stored map[string]string) bool {
	_, ok := stored[MetadataMark]
	return ok && len(stored) == 1
}

// OpenSubject decrypts the stored subject of the message id. It returns a plain subject unchanged. Errors are of type [*Error].
func (r *Ring) OpenSubject(id string, stored string) (string, error) {
	encoded, ok := strings.CutPrefix(stored, subjectMark)
	if !ok {
		return stored, nil
	}
	plain, err := r.openText(id, purposeSubject, encoded)
	return string(plain), err
}

// OpenMetadata decrypts the stored metadata of the message id. It returns plain metadata unchanged. Errors are of type [*Error].
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

// decrypt returns the plaintext of an envelope and does not decompress it.
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

// splitEnvelope returns the name of the key, the bytes before the nonce, and the rest.
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

// associated returns the data that the tag authenticates beside the ciphertext. NUL separates its parts: neither a purpose nor an
// id contains one.
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

// SealBody seals a rendered message. It first compresses a message of at least compressFrom bytes if that saves more than an
// eighth. With compressFrom 0 it never compresses.
func (r *Ring) SealBody(id string, body []byte, compressFrom int64) ([]byte, error) {
	if compressible(int64(len(body)), compressFrom) {
		if short, ok := deflate(body); ok {
			return r.encrypt(id, purposeBody, short, true)
		}
	}
	return r.encrypt(id, purposeBody, body, false)
}

// compressible says whether to compress a body of n bytes. A body longer than inflate accepts is not compressible.
func compressible(n, from int64) bool { return from > 0 && n >= from && n <= maxOpened }

// sealText seals a short value and returns it as text.
func (r *Ring) sealText(id string, what purpose, plain string) (string, error) {
	sealed, err := r.encrypt(id, what, []byte(plain), false)
	return base64.RawStdEncoding.EncodeToString(sealed), err
}

// SealSubject seals a subject and returns the text to store instead.
func (r *Ring) SealSubject(id string, subject string) (string, error) {
	sealed, err := r.sealText(id, purposeSubject, subject)
	return subjectMark + sealed, err
}

// SealMetadata seals the JSON text of metadata and returns the JSON text to store instead.
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
		panic(err) // the level is valid
	}
	return w
}}

// deflate compresses a body. It returns false unless that saves more than an eighth.
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

// inflate undoes deflate. It stops at the length that the compressed content states.
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
