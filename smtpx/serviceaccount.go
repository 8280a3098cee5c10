package smtpx

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"time"
)

// serviceAccount is the key file of a Google service account.
type serviceAccount struct {
	Type       string `json:"type"`
	Email      string `json:"client_email"`
	KeyID      string `json:"private_key_id"`
	PrivateKey string `json:"private_key"`
	TokenURI   string `json:"token_uri"`

	key *rsa.PrivateKey
}

// readServiceAccount reads and checks a key file. Its errors quote nothing of it.
func readServiceAccount(path string) (*serviceAccount, error) {
	wrong := func(text string) error { return fmt.Errorf("service-account: %s %s", path, text) }
	data, err := readSmall(path)
	if err != nil {
		return nil, fmt.Errorf("service-account: %w", err)
	}
	var a serviceAccount
	if json.Unmarshal(data, &a) != nil {
		return nil, wrong("is not JSON")
	}
	if a.Type != "service_account" || a.Email == "" {
		return nil, wrong("is not the key of a service account")
	}
	block, _ := pem.Decode([]byte(a.PrivateKey))
	if block == nil {
		return nil, wrong("has no private key in PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if err != nil || !ok {
		return nil, wrong("has a private key that is not RSA")
	}
	a.key = key
	return &a, nil
}

// assertionLife is how long an assertion can be used. Google allows an hour.
const assertionLife = 10 * time.Minute

// assertion returns a signed JWT (RFC 7523) that asks for a token in the name of a user.
func (a *serviceAccount) assertion(user, scope, audience string, now time.Time) (string, error) {
	encode := func(v any) (string, error) {
		data, err := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(data), err
	}
	head, err := encode(map[string]string{"alg": "RS256", "typ": "JWT", "kid": a.KeyID})
	if err != nil {
		return "", err
	}
	claims, err := encode(map[string]any{
		"iss": a.Email, "sub": user, "scope": scope, "aud": audience,
		"iat": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	})
	if err != nil {
		return "", err
	}
	text := head + "." + claims
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, a.key, crypto.SHA256, digest[:])
	if err != nil {
		return "", errors.New("the private key of the service account cannot sign")
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// fetchForAccount asks for a token with the key of a service account.
func (f *tokenFetcher) fetchForAccount(ctx context.Context) (issued, error) {
	key, err := readServiceAccount(f.ServiceAccountFile)
	if err != nil {
		return issued{}, fmt.Errorf("%w: %w", ErrTokenRefused, err)
	}
	endpoint := cmp.Or(f.TokenURL, key.TokenURI)
	if err := checkTokenURL(endpoint); err != nil {
		return issued{}, fmt.Errorf("%w: %w", ErrTokenRefused, err)
	}
	jwt, err := key.assertion(f.user, f.Scope, endpoint, time.Now())
	if err != nil {
		return issued{}, fmt.Errorf("%w: %w", ErrTokenRefused, err)
	}
	got, err := f.ask(ctx, endpoint, url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {jwt}}, "")
	if err != nil {
		return issued{}, err
	}
	return got.issued(), nil
}
