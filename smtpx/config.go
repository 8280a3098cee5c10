package smtpx

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"time"
)

// Option changes the [Config] that [Open] made of the URL.
type Option func(*Config)

// Password sets the password, so that it need not stand in the URL.
func Password(password string) Option { return func(c *Config) { c.Password = password } }

// TLSConfig sets the TLS configuration to start from; see Config.TLSConfig.
func TLSConfig(config *tls.Config) Option { return func(c *Config) { c.TLSConfig = config } }

// RootCAs sets the certificate authorities to trust instead of the system's.
func RootCAs(pool *x509.CertPool) Option { return func(c *Config) { c.RootCAs = pool } }

// TLSMode says how a session is protected.
type TLSMode string

// The modes. None of them falls back to clear text after TLS was begun.
const (
	// TLSRequired is TLSImplicit for smtps and for port 465, else TLSStartTLS. It is the default.
	TLSRequired TLSMode = "required"
	// TLSStartTLS demands STARTTLS (RFC 3207); a server without it is a configuration error.
	TLSStartTLS TLSMode = "starttls"
	// TLSImplicit begins with the handshake (RFC 8314).
	TLSImplicit TLSMode = "implicit"
	// TLSOpportunistic uses STARTTLS where it is offered.
	TLSOpportunistic TLSMode = "opportunistic"
	// TLSNone speaks in clear.
	TLSNone TLSMode = "none"
)

// Config is everything that can be said about a relay. [Open] fills it from the URL, then applies the options. A zero
// field takes its default.
type Config struct {
	// Host and Port of the relay. Port defaults to 587, with smtps to 465.
	Host string
	Port int
	// User and Password are the credentials. No User means no AUTH.
	User     string
	Password string
	// Token gives the token for OAUTHBEARER and XOAUTH2, which are then the only mechanisms that are used. When the server
	// does not take it, Token is asked once more with refresh set. Pinned by Auth, the two take Password where Token is nil.
	Token func(ctx context.Context, refresh bool) (string, error)
	// Auth pins the mechanism, such as "PLAIN": PLAIN, LOGIN, CRAM-MD5, SCRAM-SHA-1, SCRAM-SHA-256, both also with -PLUS,
	// XOAUTH2 or OAUTHBEARER. Defaults to the strongest that the server offers and the profile knows to work.
	Auth string
	// ClearAuth allows AUTH over a connection without TLS to a host that is not loopback.
	ClearAuth bool

	// TLS is the mode. Defaults to TLSRequired.
	TLS TLSMode
	// TLSConfig is the configuration to start from. It is cloned; ServerName defaults to Host, MinVersion is raised to TLS
	// 1.2, and NextProtos (ALPN) is dropped, because some relays refuse it.
	TLSConfig *tls.Config
	// RootCAs are the authorities to trust. Defaults to those in CAFile, else of TLSConfig, else the system's.
	RootCAs *x509.CertPool
	// CAFile is a PEM file of authorities to trust instead of the system's. CertFile and KeyFile are the client's own
	// certificate. The files are read again when they have changed.
	CAFile            string
	CertFile, KeyFile string

	// EHLO is the name to introduce oneself with: a fully-qualified host name or an address literal. Defaults to the
	// host's name where that is fully qualified, else to the literal of the local address. "localhost" is allowed towards
	// loopback only.
	EHLO string

	// Conns is the most connections that are open at a time. Defaults to 4, or the profile's limit if that is lower.
	Conns int
	// Rate is the most messages per second, fractions included. Defaults to no limit.
	Rate float64
	// MaxMessages is the number of messages after which a connection is replaced. Defaults to 100, or the profile's limit if
	// that is lower.
	MaxMessages int
	// MaxAge is the age at which it is. Defaults to 5 minutes.
	MaxAge time.Duration
	// Idle is how long an unused connection is kept. Defaults to 30 seconds, or somewhat less than the profile's limit.
	Idle time.Duration

	// Provider names the profile to use, such as "ses". Defaults to the one whose hosts match Host, else the generic one.
	Provider string

	// Without names ESMTP extensions that are not used even where the server, or a device before it, offers them: CHUNKING or
	// PIPELINING, say, when it gets them wrong. STARTTLS and AUTH cannot be named: TLS and User decide about them.
	Without []string

	// Timeouts bound the stages of a session.
	Timeouts Timeouts

	// Observer hears what the client does.
	Observer Observer
	// Transcript, when set, is given every line of every session, secrets replaced. It is called by many goroutines.
	Transcript func(Line)

	// Dial opens the transport: a proxy, say. Defaults to a net.Dialer with Resolver and LocalAddr, which tries the
	// addresses of both families (RFC 8305).
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolver looks names up for the default Dial. Defaults to net.DefaultResolver.
	Resolver *net.Resolver
	// LocalAddr is the local IP address that the default Dial binds. Defaults to the system's choice.
	LocalAddr net.IP
}

// Timeouts are the longest waits by stage. Zero fields take the defaults, which are those of RFC 5321 §4.5.3.2 where it
// gives one.
type Timeouts struct {
	Dial   time.Duration // connecting, with name lookup. Defaults to 10 s
	TLS    time.Duration // a handshake. Defaults to 30 s
	Banner time.Duration // the greeting. Defaults to 30 s: the RFC's 5 min serve MX hosts, not relays
	EHLO   time.Duration // EHLO and STARTTLS. Defaults to 5 min
	Auth   time.Duration // each turn of AUTH. Defaults to 5 min
	Mail   time.Duration // MAIL and RSET. Defaults to 5 min
	Rcpt   time.Duration // each RCPT. Defaults to 5 min
	Data   time.Duration // DATA until its 354. Defaults to 2 min
	Block  time.Duration // each block of the body. Defaults to 3 min
	Dot    time.Duration // the reply to the final dot. Defaults to 10 min; a shorter one makes ambiguous outcomes
	Quit   time.Duration // the reply to QUIT. Defaults to 3 s
}

func (t Timeouts) withDefaults() Timeouts {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&t.Dial, 10 * time.Second},
		{&t.TLS, 30 * time.Second},
		{&t.Banner, 30 * time.Second},
		{&t.EHLO, 5 * time.Minute},
		{&t.Auth, 5 * time.Minute},
		{&t.Mail, 5 * time.Minute},
		{&t.Rcpt, 5 * time.Minute},
		{&t.Data, 2 * time.Minute},
		{&t.Block, 3 * time.Minute},
		{&t.Dot, 10 * time.Minute},
		{&t.Quit, 3 * time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return t
}
