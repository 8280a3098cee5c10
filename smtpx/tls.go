package smtpx

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// tlsSource gives the TLS configuration for each handshake. All handshakes with a relay share one session cache; files of
// certificates are read again when they have changed, so that renewing them takes no restart.
type tlsSource struct {
	caFile, certFile, keyFile string

	mu      sync.Mutex
	base    *tls.Config
	changed [3]time.Time // of the files, as far as they were read
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
	base.NextProtos = nil // some relays refuse ALPN, whatever is in it
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

// config returns the configuration for a handshake. A file that cannot be read any more is an error.
func (s *tlsSource) config() (*tls.Config, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refresh(); err != nil {
		return nil, err
	}
	return s.base, nil
}

func (s *tlsSource) refresh() error {
	if s.caFile != "" {
		if newer, err := s.newer(0, s.caFile); err != nil {
			return fmt.Errorf("ca: %w", err)
		} else if newer {
			pool, err := readCA(s.caFile)
			if err != nil {
				return fmt.Errorf("ca: %w", err)
			}
			s.replace(func(c *tls.Config) { c.RootCAs = pool })
		}
	}
	if s.certFile == "" {
		return nil
	}
	newCert, err := s.newer(1, s.certFile)
	if err != nil {
		return fmt.Errorf("cert: %w", err)
	}
	newKey, err := s.newer(2, s.keyFile)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	if newCert || newKey {
		pair, err := tls.LoadX509KeyPair(s.certFile, s.keyFile)
		if err != nil {
			s.changed[1] = time.Time{} // in the middle of being replaced, perhaps
			return fmt.Errorf("cert: %w", err)
		}
		s.replace(func(c *tls.Config) { c.Certificates = []tls.Certificate{pair} })
	}
	return nil
}

// newer tells whether a file changed since it was asked for last.
func (s *tlsSource) newer(i int, file string) (bool, error) {
	info, err := os.Stat(file)
	if err != nil {
		return false, err
	}
	newer := !info.ModTime().Equal(s.changed[i])
	s.changed[i] = info.ModTime()
	return newer, nil
}

// replace changes a copy: handshakes under way use the old one. Sessions of the old trust are forgotten.
func (s *tlsSource) replace(change func(*tls.Config)) {
	c := s.base.Clone()
	c.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	change(c)
	s.base = c
}

func readCA(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", path)
	}
	return pool, nil
}
