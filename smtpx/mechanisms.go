package smtpx

import (
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // CRAM-MD5 is made of it (RFC 2195)
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

var errChallenge = errors.New("unexpected challenge")

// plain is RFC 4616.
type plain struct{ user, password string }

func (m *plain) start() ([]byte, error) {
	if strings.ContainsRune(m.user+m.password, 0) {
		return nil, errors.New("user or password has a NUL")
	}
	return []byte("\x00" + m.user + "\x00" + m.password), nil
}

func (m *plain) next([]byte) ([]byte, error) { return nil, errChallenge }
func (m *plain) done() error                 { return nil }

// identity is EXTERNAL (RFC 4422 appendix A): TLS has shown the client's certificate. user is the identity to act as, "" for that
// of the certificate.
type identity struct{ user string }

func (m *identity) start() ([]byte, error)      { return []byte(m.user), nil }
func (m *identity) next([]byte) ([]byte, error) { return nil, errChallenge }
func (m *identity) done() error                 { return nil }

// login is the mechanism of draft-murchison-sasl-login. It answers in order and ignores the texts of the prompts.
type login struct{ answers []string }

func (m *login) start() ([]byte, error) { return nil, nil }

func (m *login) next([]byte) ([]byte, error) {
	if len(m.answers) == 0 {
		return nil, errChallenge
	}
	answer := m.answers[0]
	m.answers = m.answers[1:]
	return []byte(answer), nil
}

func (m *login) done() error { return nil }

// cramMD5 is RFC 2195.
type cramMD5 struct {
	user, password string
	answered       bool
}

func (m *cramMD5) start() ([]byte, error) { return nil, nil }

func (m *cramMD5) next(challenge []byte) ([]byte, error) {
	if m.answered || len(challenge) == 0 {
		return nil, errChallenge
	}
	m.answered = true
	h := hmac.New(md5.New, []byte(m.password))
	h.Write(challenge)
	return []byte(m.user + " " + hex.EncodeToString(h.Sum(nil))), nil
}

func (m *cramMD5) done() error {
	if !m.answered {
		return errors.New("the server did not ask for a proof")
	}
	return nil
}

// xoauth2 is Google's and Microsoft's mechanism for bearer tokens.
type xoauth2 struct{ user, token string }

func (m *xoauth2) start() ([]byte, error) {
	if err := checkToken(m.user, m.token); err != nil {
		return nil, err
	}
	return []byte("user=" + m.user + "\x01auth=Bearer " + m.token + "\x01\x01"), nil
}

// next answers the error that a server sends as a challenge. The refusal follows.
func (m *xoauth2) next([]byte) ([]byte, error) { return []byte{}, nil }
func (m *xoauth2) done() error                 { return nil }

// oauthBearer is RFC 7628.
type oauthBearer struct {
	user, token, host string
	port              int
}

func (m *oauthBearer) start() ([]byte, error) {
	if err := checkToken(m.user, m.token); err != nil {
		return nil, err
	}
	user := strings.NewReplacer("=", "=3D", ",", "=2C").Replace(m.user)
	return fmt.Appendf(nil, "n,a=%s,\x01host=%s\x01port=%d\x01auth=Bearer %s\x01\x01", user, m.host, m.port, m.token), nil
}

// next answers the error that a server sends as a challenge (RFC 7628 §3.2.3). The refusal follows.
func (m *oauthBearer) next([]byte) ([]byte, error) { return []byte{1}, nil }
func (m *oauthBearer) done() error                 { return nil }

func checkToken(user, token string) error {
	if token == "" {
		return errors.New("the token is empty")
	}
	if strings.ContainsFunc(user+token, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("user or token has control characters")
	}
	return nil
}
