package dkim

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/outboxmail/outbox/internal/textfile"
)

const (
	// minRSA is the shortest RSA key that receivers accept (RFC 8301 §3.2).
	minRSA = 1024
	// maxKeyFile is the number of bytes that are read of a key file.
	maxKeyFile = 64 << 10
)

// keyFile is a private key in a file. A changed file is read again.
type keyFile struct {
	path, domain, selector string
	log                    *slog.Logger

	mu      sync.Mutex
	key     crypto.Signer
	changed time.Time // modification time of the file last read, even if that failed
	size    int64     // its size in bytes
}

// signer returns the key. If a changed file cannot be read or holds no key, signer returns the old key and logs one error for
// each change. A half-written file changes once more, and is read again then.
func (f *keyFile) signer() (crypto.Signer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err == nil && f.key != nil && info.ModTime().Equal(f.changed) && info.Size() == f.size {
		return f.key, nil
	}
	var changed time.Time
	var size int64
	if err == nil {
		changed, size = info.ModTime(), info.Size()
	}
	key, err := readKey(f.path)
	if err != nil {
		if f.key == nil {
			return nil, err
		}
		if !changed.Equal(f.changed) || size != f.size {
			f.log.LogAttrs(context.Background(), slog.LevelError, "a changed DKIM key cannot be read; the old one serves on",
				slog.String("domain", f.domain), slog.String("selector", f.selector), slog.Any("error", err))
		}
	} else {
		f.key = key
	}
	f.changed, f.size = changed, size
	return f.key, nil
}

// readKey reads a private key. Errors do not repeat what was read.
func readKey(path string) (crypto.Signer, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.LimitReader(file, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	key, err := parseKey(text)
	if err != nil {
		return nil, fmt.Errorf("the key in %s: %w", path, err)
	}
	return key, nil
}

func parseKey(text []byte) (crypto.Signer, error) {
	text, err := textfile.Trim(text)
	if err != nil {
		return nil, fmt.Errorf("it %w", err)
	}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, errors.New("there is no private key in PEM")
		}
		var parsed any
		var err error
		switch block.Type {
		case "RSA PRIVATE KEY":
			parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "PRIVATE KEY":
			parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, errors.New("it is protected by a password: store it without one, readable by the service alone")
		default:
			continue // such as a public key
		}
		if err != nil {
			return nil, errors.New("it cannot be parsed: it is neither RSA nor Ed25519, protected by a password, or broken")
		}
		switch key := parsed.(type) {
		case *rsa.PrivateKey:
			if key.N.BitLen() < minRSA {
				return nil, fmt.Errorf("RSA of %d bits is too short: receivers ask for %d", key.N.BitLen(), minRSA)
			}
			return key, nil
		case ed25519.PrivateKey:
			return key, nil
		default:
			return nil, fmt.Errorf("a key of type %T is neither RSA nor Ed25519", parsed)
		}
	}
}
