package smtpx

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// tlsSource returns the TLS configuration for each handshake. All handshakes with a relay share one session cache. Files of
// certificates are read again when they change.
type tlsSource struct {
	caFile, certFile, keyFile string

	mu                        sync.Mutex
	base                      *tls.Config
	caRead, certRead, keyRead time.Time // modification times of the files in use
}

// newTLSSource checks the files.
func newTLSSource(c *Config) (*tlsSource, error) {
	if (c.CertFile == "") != (c.KeyFile == "") {
		return nil, errors.New("relay: a client certificate needs both cert and key")
	}
	base := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.TLSConfig != nil {
		base = c.TLSConfig.Clone()
		base.MinVersion = max(base.MinVersion, tls.VersionTLS12)
	}
	base.NextProtos = nil // some relays refuse any ALPN
	base.ServerName = cmp.Or(base.ServerName, c.Host)
	if base.ClientSessionCache == nil {
		base.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	}
	s := &tlsSource{certFile: c.CertFile, keyFile: c.KeyFile, base: base}
	if c.RootCAs != nil {
		base.RootCAs = c.RootCAs
	} else {
		s.caFile = c.CAFile
	}
	if _, err := s.config(); err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	return s, nil
}

// config returns the configuration for a handshake. A file that cannot be read is an error at every handshake.
func (s *tlsSource) config() (*tls.Config, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refreshCA(); err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	if err := s.refreshCertificate(); err != nil {
		return nil, err
	}
	return s.base, nil
}

func (s *tlsSource) refreshCA() error {
	if s.caFile == "" {
		return nil
	}
	changed, err := modified(s.caFile)
	if err != nil || changed.Equal(s.caRead) {
		return err
	}
	pool, err := readCA(s.caFile)
	if err != nil {
		return err
	}
	s.caRead = changed
	s.replace(func(c *tls.Config) { c.RootCAs = pool })
	return nil
}

func (s *tlsSource) refreshCertificate() error {
	if s.certFile == "" {
		return nil
	}
	certChanged, err := modified(s.certFile)
	if err != nil {
		return fmt.Errorf("cert: %w", err)
	}
	keyChanged, err := modified(s.keyFile)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	if certChanged.Equal(s.certRead) && keyChanged.Equal(s.keyRead) {
		return nil
	}
	pair, err := readPair(s.certFile, s.keyFile)
	if err != nil {
		return fmt.Errorf("cert: %w", err)
	}
	s.certRead, s.keyRead = certChanged, keyChanged
	s.replace(func(c *tls.Config) { c.Certificates = []tls.Certificate{pair} })
	return nil
}

func modified(file string) (time.Time, error) {
	info, err := os.Stat(file)
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// replace changes a copy: handshakes under way use the old one. It drops the sessions that the old trust allowed.
func (s *tlsSource) replace(change func(*tls.Config)) {
	c := s.base.Clone()
	c.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	change(c)
	s.base = c
}

// withoutMark removes a byte order mark of UTF-8, which some editors write at the start of a file.
func withoutMark(data []byte) []byte { return bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) }

func readCA(path string) (*x509.CertPool, error) {
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	rest = withoutMark(rest)
	begun := bytes.Count(rest, []byte("-----BEGIN CERTIFICATE-----"))
	pool, n := x509.NewCertPool(), 0
	for block, after := pem.Decode(rest); block != nil; block, after = pem.Decode(rest) {
		rest = after
		if block.Type != "CERTIFICATE" {
			continue
		}
		n++
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", path, n, err)
		}
		pool.AddCert(cert)
	}
	switch {
	case begun > n: // pem.Decode passes over a block that it cannot read
		return nil, fmt.Errorf("%s: only %d of %d certificates can be read", path, n, begun)
	case n == 0:
		return nil, fmt.Errorf("%s holds no PEM certificate", path)
	}
	return pool, nil
}

// readPair reads the client's certificate and its key.
func readPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(withoutMark(cert), withoutMark(key))
}
