package smtpx

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"time"
)

// Option changes the [Config] that [Open] reads from the URL.
type Option func(*Config)

// Password sets the password, instead of one in the URL.
func Password(password string) Option { return func(c *Config) { c.Password = password } }

// TLSConfig sets the TLS configuration to start from; see Config.TLSConfig.
func TLSConfig(config *tls.Config) Option { return func(c *Config) { c.TLSConfig = config } }

// RootCAs sets the certificate authorities to trust instead of the system's.
func RootCAs(pool *x509.CertPool) Option { return func(c *Config) { c.RootCAs = pool } }

// TLSMode says how a session is protected.
type TLSMode string

// The modes. No mode falls back to clear text after TLS has begun.
const (
	// TLSRequired is TLSImplicit for smtps, else the mode that the profile gives the port, else TLSImplicit for port 465 and
	// TLSStartTLS for any other. It is the default.
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

// Config describes a relay. [Open] fills it from the URL, then applies the options. A zero field takes its default.
type Config struct {
	// Host and Port of the relay. Port defaults to the profile's, else to 587, with smtps to 465.
	Host string
	Port int
	// Socket is the path of a Unix socket to use instead of Host and Port. TLS defaults to TLSNone then, and Host to localhost: the
	// name that TLS verifies.
	Socket string
	// User and Password are the credentials. No User means no AUTH.
	User     string
	Password string
	// Token returns the token for OAUTHBEARER and XOAUTH2. If it is set, only these two mechanisms are used, unless Auth pins
	// another. It is called before each dial and may take Timeouts.Token. If the server permanently refuses the token, it is
	// called once more with refresh set. Its errors are of ClassUnreachable, or of ClassConfig if they wrap ErrTokenRefused.
	// Defaults to a source made of OAuth2 or TokenCommand, of which one at most may be given, else to nil. If Auth pins one of the
	// two mechanisms and there is no source, Password is the token.
	Token TokenSource
	// OAuth2 fetches tokens from an identity provider.
	OAuth2 OAuth2
	// TokenCommand is a shell command that prints a token; see CommandToken.
	TokenCommand string
	// Auth pins the mechanism: PLAIN, LOGIN, CRAM-MD5, SCRAM-SHA-1, SCRAM-SHA-256, the latter two also with -PLUS, XOAUTH2,
	// OAUTHBEARER, or EXTERNAL for a login by the client certificate without a password. Defaults to the strongest mechanism
	// that the server offers, mechanisms listed in the profile first. EXTERNAL is never the default.
	Auth string
	// ClearAuth allows AUTH over a connection without TLS to a host that is not loopback.
	ClearAuth bool

	// TLS is the mode. Defaults to TLSRequired.
	TLS TLSMode
	// TLSConfig is the configuration to start from. It is cloned. ServerName defaults to Host, MinVersion is raised to TLS
	// 1.2, and NextProtos (ALPN) is dropped, because some relays refuse it.
	TLSConfig *tls.Config
	// RootCAs are the authorities to trust. Defaults to those in CAFile, else to those of TLSConfig, else to the system's.
	RootCAs *x509.CertPool
	// CAFile is a PEM file of authorities to trust instead of the system's. CertFile and KeyFile hold the client's own
	// certificate. The files are read again when they change. A changed file that cannot be read fails every handshake.
	CAFile            string
	CertFile, KeyFile string

	// EHLO is the name for EHLO: a fully-qualified host name or an address literal. "localhost" is allowed towards loopback
	// only. Defaults to the host's name if that is fully qualified, else to the literal of the local address.
	EHLO string

	// Connections is the most connections that are open at a time. Defaults to 4, or the profile's limit if that is lower.
	Connections int
	// Rate is the most messages per second, fractions included. Defaults to no limit.
	Rate float64
	// DialRate is the most new connections per second, fractions included. Defaults to the profile's, else to no limit.
	DialRate float64
	// MaxMessages is the number of messages after which a connection is replaced. Defaults to 100, or the profile's limit if
	// that is lower.
	MaxMessages int
	// MaxAge is the age at which a connection is replaced. Defaults to 5 minutes.
	MaxAge time.Duration
	// Idle is how long an unused connection is kept. Defaults to 30 seconds, or somewhat less than the profile's limit.
	Idle time.Duration

	// Provider names the profile to use, such as "ses". Defaults to the one whose hosts match Host, else the generic one.
	Provider string

	// Without names ESMTP extensions that are not used even if the server offers them. Name CHUNKING or PIPELINING if the
	// server, or a device in front of it, handles them wrongly. STARTTLS and AUTH are errors here: TLS and User control them.
	Without []string

	// Timeouts bound the stages of a session.
	Timeouts Timeouts

	// Observer is told what the client does.
	Observer Observer
	// Transcript, when set, is called with every line of every session, with secrets replaced. Many goroutines call it at a
	// time.
	Transcript func(Line)

	// Dial opens the transport, through a proxy for example. Defaults to a net.Dialer with Resolver and LocalAddr, which tries
	// the addresses of both families (RFC 8305).
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Proxy is the URL of a proxy: socks5://host:1080, http://host:3128 or https://host, with user:password@ before the host if
	// the proxy wants a login. It resolves the relay's name. TLS is verified for the relay. Defaults to a direct connection.
	// Proxy variables of the environment are not used.
	Proxy string
	// Resolver looks up names for the default Dial. Defaults to net.DefaultResolver.
	Resolver *net.Resolver
	// LocalAddr is the local IP address that the default Dial binds. Defaults to the system's choice.
	LocalAddr net.IP
}

// Timeouts are the longest waits by stage. A zero field takes its default, that of RFC 5321 §4.5.3.2 if it has one.
type Timeouts struct {
	Dial   time.Duration // connecting, with name lookup. Defaults to 10 s
	TLS    time.Duration // a handshake. Defaults to 30 s
	Banner time.Duration // the greeting. Defaults to 30 s: the RFC's 5 min serve MX hosts, not relays
	EHLO   time.Duration // EHLO and STARTTLS. Defaults to 5 min
	Auth   time.Duration // each turn of AUTH. Defaults to 5 min
	Token  time.Duration // a call of Config.Token. Defaults to 30 s, or Auth if that is shorter
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
		{&t.Token, min(30*time.Second, cmp.Or(max(t.Auth, 0), 5*time.Minute))},
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
