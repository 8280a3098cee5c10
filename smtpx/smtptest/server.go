package smtptest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
)

// Server is an SMTP server on loopback. Make one with [New] or [Start].
type Server struct {
	config    Config
	character character
	tls       *tls.Config
	caPEM     []byte
	caFile    string
	listener  net.Listener

	ledger ledger
	stats  counters

	wg sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]context.CancelFunc // ends the session's context
	closed bool
}

// TB has the methods of a testing.TB that [New] needs.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// New starts a server that lives as long as the test.
func New(tb TB, config Config) *Server {
	tb.Helper()
	s, err := Start(config)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

// Start starts a server. The caller closes it.
func Start(config Config) (*Server, error) {
	s, err := prepare(config)
	if err != nil {
		return nil, fmt.Errorf("smtptest: %w", err)
	}
	return s, nil
}

func prepare(config Config) (*Server, error) {
	if config.Addr == "" {
		config.Addr = "127.0.0.1:0"
	}
	if config.Hostname == "" {
		config.Hostname = "relay.test"
	}
	character, err := config.adopt()
	if err != nil {
		return nil, err
	}
	if config.Extensions == nil {
		config.Extensions = DefaultExtensions
	}
	if config.Mechanisms == nil {
		config.Mechanisms = []string{"PLAIN", "LOGIN"}
	}
	switch config.TLS {
	case "":
		config.TLS = StartTLS
	case StartTLS, ImplicitTLS, NoTLS:
	default:
		return nil, fmt.Errorf("unknown TLS mode %q", config.TLS)
	}
	ca, err := theAuthority()
	if err != nil {
		return nil, err
	}
	cert, err := ca.issue(config.Hostname)
	if err != nil {
		return nil, err
	}
	s := &Server{
		config:    config,
		character: character,
		tls:       &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, MaxVersion: config.MaxTLSVersion},
		caPEM:     ca.pem,
		conns:     make(map[net.Conn]context.CancelFunc),
	}
	if config.ClientCertificates {
		s.tls.ClientAuth = tls.RequireAndVerifyClientCert
		s.tls.ClientCAs = s.CertPool()
	}
	if s.caFile, err = writeTemp(ca.pem); err != nil {
		return nil, err
	}
	if config.NoListen {
		return s, nil
	}
	if s.listener, err = new(net.ListenConfig).Listen(context.Background(), "tcp", config.Addr); err != nil {
		return nil, errors.Join(err, os.Remove(s.caFile))
	}
	s.wg.Go(s.accept)
	return s, nil
}

func writeTemp(data []byte) (string, error) {
	f, err := os.CreateTemp("", "smtptest-ca-*.pem")
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	return f.Name(), errors.Join(err, f.Close())
}

func (s *Server) accept() {
	for {
		nc, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.serve(nc)
	}
}

// serve starts the session of a connection.
func (s *Server) serve(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = nc.Close()
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.conns[nc] = cancel
	id, open := s.stats.enter()
	s.wg.Go(func() {
		session := newSession(s, nc, id)
		session.run(ctx, open)
		session.leave()
		_ = nc.Close()
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, nc)
	})
}

// Dial connects to the server through memory instead of a socket, for tests with a fake clock. It fits smtpx.Config.Dial. It
// ignores the address.
func (s *Server) Dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	s.serve(server) //nolint:contextcheck // the session outlives the dial
	return client, nil
}

// Close ends all sessions and waits for them.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.wg.Wait()
		return nil
	}
	s.closed = true
	for nc, cancel := range s.conns {
		_ = nc.Close()
		cancel()
	}
	s.mu.Unlock()
	err := os.Remove(s.caFile)
	if s.listener != nil {
		err = errors.Join(err, s.listener.Close())
	}
	s.wg.Wait()
	return err
}

// Addr returns host:port. If Config.NoListen is set, nothing listens there.
func (s *Server) Addr() string {
	if s.listener == nil {
		return "127.0.0.1:25"
	}
	return s.listener.Addr().String()
}

// URL returns the URL for smtpx.Open. It has the configured user and password, the TLS mode, and the path of a file with the
// authority. The file exists until the server closes. params are added to the URL, such as "conns=2".
func (s *Server) URL(params ...string) string {
	return s.URLFor(s.config.User, s.config.Password, params...)
}

// URLFor is [Server.URL] with another user.
func (s *Server) URLFor(user, password string, params ...string) string {
	u := url.URL{Scheme: "smtp", Host: s.Addr()}
	if user != "" {
		u.User = url.UserPassword(user, password)
	}
	query := make([]string, 0, len(params)+1)
	switch s.config.TLS {
	case ImplicitTLS:
		u.Scheme = "smtps"
		query = append(query, "ca="+url.QueryEscape(s.caFile))
	case NoTLS:
		query = append(query, "tls=none")
	case StartTLS:
		query = append(query, "ca="+url.QueryEscape(s.caFile))
	}
	u.RawQuery = strings.Join(append(query, params...), "&")
	return u.String()
}

// CertPool returns a pool with the authority that signed the server's certificate.
func (s *Server) CertPool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.caPEM)
	return pool
}

// CAPEM returns the authority's certificate in PEM.
func (s *Server) CAPEM() []byte { return append([]byte(nil), s.caPEM...) }
