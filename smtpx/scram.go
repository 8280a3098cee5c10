package smtpx

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // SCRAM-SHA-1 is made of it (RFC 5802)
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
)

// Bounds of the rounds that a server may ask of the key derivation. RFC 7677 §4 wants at least 4096. Without an upper bound a
// server could keep the client busy for hours.
const (
	minRounds = 4096
	maxRounds = 5_000_000
)

// binding ties an exchange to the TLS connection (RFC 5929, RFC 9266).
type binding struct {
	name string
	data []byte
}

// channelBinding returns the binding of the session's TLS, nil for none.
func (s *session) channelBinding() *binding {
	if s.tls == nil {
		return nil
	}
	if s.tls.Version < tls.VersionTLS13 {
		if len(s.tls.TLSUnique) == 0 {
			return nil
		}
		return &binding{"tls-unique", s.tls.TLSUnique}
	}
	data, err := s.tls.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	if err != nil {
		return nil
	}
	return &binding{"tls-exporter", data}
}

// scram is RFC 5802 with the hashes of SCRAM-SHA-1 and SCRAM-SHA-256 (RFC 7677). A name in -PLUS means channel binding.
type scram struct {
	newHash        func() hash.Hash
	user, password string
	nonce          string
	header         string // gs2-header
	bound          []byte // channel-binding data, nil for none

	step            int
	firstBare       string
	serverSignature []byte
	proved          bool
}

func newSCRAM(name, user, password string, b *binding) (*scram, error) {
	user, err := prepareUser(user)
	if err != nil {
		return nil, err
	}
	if password, err = preparePassword(password); err != nil {
		return nil, err
	}
	nonce := make([]byte, 18)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	m := &scram{
		newHash:  sha256.New,
		user:     strings.NewReplacer("=", "=3D", ",", "=2C").Replace(user),
		password: password,
		nonce:    base64.StdEncoding.EncodeToString(nonce),
		header:   "n,,",
	}
	if strings.HasPrefix(name, "SCRAM-SHA-1-") || name == "SCRAM-SHA-1" {
		m.newHash = sha1.New
	}
	switch {
	case strings.HasSuffix(name, "-PLUS"):
		if b == nil {
			return nil, errors.New("the connection has no channel to bind to")
		}
		m.header, m.bound = "p="+b.name+",,", b.data
	case b != nil:
		m.header = "y,," // the client can bind and saw no such offer: the server detects an offer that was stripped
	}
	return m, nil
}

func (m *scram) start() ([]byte, error) {
	m.firstBare = "n=" + m.user + ",r=" + m.nonce
	return []byte(m.header + m.firstBare), nil
}

func (m *scram) next(challenge []byte) ([]byte, error) {
	m.step++
	switch m.step {
	case 1:
		return m.prove(string(challenge))
	case 2:
		return []byte{}, m.verify(string(challenge))
	}
	return nil, errChallenge
}

func (m *scram) done() error {
	if !m.proved {
		return errors.New("the server did not prove that it knows the password")
	}
	return nil
}

// prove answers the server-first-message.
func (m *scram) prove(first string) ([]byte, error) {
	nonce, salt, rounds, err := parseServerFirst(first)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(nonce, m.nonce) || len(nonce) == len(m.nonce) {
		return nil, errors.New("the server's nonce does not begin with the client's")
	}
	salted, err := pbkdf2.Key(m.newHash, m.password, salt, rounds, m.newHash().Size())
	if err != nil {
		return nil, err
	}
	final := "c=" + base64.StdEncoding.EncodeToString(append([]byte(m.header), m.bound...)) + ",r=" + nonce
	message := m.firstBare + "," + first + "," + final

	clientKey := m.mac(salted, "Client Key")
	stored := m.newHash()
	stored.Write(clientKey)
	proof := m.mac(stored.Sum(nil), message)
	subtle.XORBytes(proof, proof, clientKey)
	m.serverSignature = m.mac(m.mac(salted, "Server Key"), message)
	return []byte(final + ",p=" + base64.StdEncoding.EncodeToString(proof)), nil
}

// verify checks the server-final-message.
func (m *scram) verify(final string) error {
	if reason, failed := strings.CutPrefix(final, "e="); failed {
		return fmt.Errorf("the server refuses: %s", printable(reason))
	}
	value, ok := strings.CutPrefix(final, "v=")
	value, _, _ = strings.Cut(value, ",")
	signature, err := base64.StdEncoding.DecodeString(value)
	if !ok || err != nil || !hmac.Equal(signature, m.serverSignature) {
		return errors.New("the server does not know the password: it may be an impostor")
	}
	m.proved = true
	return nil
}

func (m *scram) mac(key []byte, text string) []byte {
	h := hmac.New(m.newHash, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// parseServerFirst parses "r=nonce,s=salt,i=rounds". It ignores extensions after them and refuses mandatory extensions before
// them.
func parseServerFirst(first string) (nonce string, salt []byte, rounds int, err error) {
	parts := strings.Split(first, ",")
	if len(parts) < 3 || !strings.HasPrefix(parts[0], "r=") || !strings.HasPrefix(parts[1], "s=") || !strings.HasPrefix(parts[2], "i=") {
		return "", nil, 0, errors.New("the server's first message is malformed")
	}
	salt, err = base64.StdEncoding.DecodeString(parts[1][2:])
	if err != nil || len(salt) == 0 {
		return "", nil, 0, errors.New("the server's salt is malformed")
	}
	rounds, err = strconv.Atoi(parts[2][2:])
	if err != nil || rounds < minRounds || rounds > maxRounds {
		return "", nil, 0, fmt.Errorf("the server wants %s rounds of hashing: from %d to %d are accepted",
			printable(parts[2][2:]), minRounds, maxRounds)
	}
	return parts[0][2:], salt, rounds, nil
}
