package smtpx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Client sends messages through one relay over a pool of connections. It is safe for concurrent use. Make one with [Open].
type Client struct {
	relay *relay
	pool  *pool
	rate  *limiter
}

// relay is a checked and completed configuration, with the properties that the server has shown since.
type relay struct {
	Config
	network  string // tcp or unix
	addr     string // host:port, or the path of a socket
	direct   bool   // the client itself looks up the name and dials
	loopback bool   // credentials and "localhost" may be said in clear
	tls      *tlsSource
	profile  *Profile

	proxySecret string // the proxy's password

	early       earlyHeads
	disbelieved falseOffers
	pipelined   atomic.Bool  // a flight of commands was answered once
	dialled     atomic.Int64 // connections that were tried
}

// Open makes a client for the relay at url. It checks everything that needs no connection, and starts nothing.
//
//	smtp://user:password@host:587?tls=…    STARTTLS, required unless tls says otherwise
//	smtps://user:password@host:465         TLS from the first byte
//	smtp+unix:///run/smtp.sock             a Unix socket, in clear unless tls says otherwise
//
// The parameters are tls (required, starttls, implicit, opportunistic, none), ehlo, auth, conns (connections at a time), rate
// (14, 0.5, 600/m), dials (new connections, a rate as well), messages and age (limits of one connection), idle, provider, without
// (extensions not to use, separated by commas), ca, cert and key (PEM files), local (an IP address to bind), proxy (a URL), and
// clear-auth. Tokens come from token-command, or from an identity provider by client-id, client-secret or client-secret-file,
// refresh-token or refresh-token-file, service-account (a file), tenant, scope and token-url; see [OAuth2]. Any other parameter is
// an error. Parameters set the fields of [Config]. Options are applied afterwards. No error of Open quotes a secret.
//
// Without a port or a mode of TLS the profile decides; see [Profile.Endpoint].
func Open(url string, opts ...Option) (*Client, error) {
	config, err := parseURL(url)
	if err != nil {
		return nil, fmt.Errorf("smtpx: %w", err)
	}
	for _, opt := range opts {
		opt(&config)
	}
	r, err := newRelay(config)
	if err != nil {
		return nil, fmt.Errorf("smtpx: %w", err)
	}
	return &Client{relay: r, pool: newPool(r), rate: newLimiter(r.Rate)}, nil
}

func newRelay(c Config) (*relay, error) {
	if c.Socket != "" {
		c.Host, c.TLS = cmp.Or(c.Host, "localhost"), cmp.Or(c.TLS, TLSNone)
	}
	host, err := relayHost(c.Host)
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	c.Host = host
	r := &relay{Config: c, profile: DetectProfile(c.Host), loopback: loopbackHost(c.Host)}
	if r.Provider != "" {
		p, ok := LookupProfile(r.Provider)
		if !ok {
			return nil, fmt.Errorf("relay: unknown provider %q", r.Provider)
		}
		r.profile = p
	}
	switch r.TLS {
	case "", TLSRequired, TLSStartTLS, TLSImplicit, TLSOpportunistic, TLSNone:
	default:
		return nil, errors.New("relay: tls must be required, starttls, implicit, opportunistic or none")
	}
	r.Port, r.TLS = r.profile.Endpoint(r.Port, r.TLS)
	if r.Port < 1 || r.Port > 65535 {
		return nil, errors.New("relay: the port must be from 1 to 65535")
	}
	r.network, r.addr = "tcp", net.JoinHostPort(r.Host, strconv.Itoa(r.Port))
	if r.Socket != "" {
		r.network, r.addr, r.loopback = "unix", r.Socket, true
	}
	if err := r.setDial(); err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	if r.EHLO != "" {
		if err := checkEHLO(r.EHLO, r.loopback); err != nil {
			return nil, fmt.Errorf("relay: %w", err)
		}
	}
	if err := r.setToken(); err != nil {
		return nil, err
	}
	if err := r.checkLogin(); err != nil {
		return nil, err
	}
	if r.Connections < 0 || r.MaxMessages < 0 || r.Rate < 0 || r.DialRate < 0 || r.Idle < 0 || r.MaxAge < 0 {
		return nil, errors.New("relay: limits must not be negative")
	}
	if err := checkWithout(r.Without); err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	r.limits()
	r.Timeouts = r.Timeouts.withDefaults()
	if r.tls, err = newTLSSource(&r.Config); err != nil {
		return nil, err
	}
	return r, nil
}

// setDial chooses the way to the relay.
func (r *relay) setDial() error {
	if r.Socket != "" && (r.Proxy != "" || r.LocalAddr != nil) {
		return errors.New("a socket takes no proxy and no local address")
	}
	if r.Dial == nil {
		d := &net.Dialer{Resolver: r.Resolver}
		if r.LocalAddr != nil {
			d.LocalAddr = &net.TCPAddr{IP: r.LocalAddr}
		}
		r.Dial = d.DialContext
		r.direct = r.Proxy == "" && r.Socket == ""
	}
	if r.Proxy == "" {
		return nil
	}
	p, err := parseProxy(r.Proxy, r.Dial)
	if err != nil {
		return err
	}
	r.Dial, r.proxySecret = p.connect, p.password
	r.loopback = r.loopback && loopbackHost(p.host) // what is loopback for a proxy elsewhere is not so here
	return nil
}

// checkLogin checks the fields that AUTH needs.
func (r *relay) checkLogin() error {
	if r.Password != "" && r.User == "" {
		return errors.New("relay: there is a password but no user")
	}
	if r.Auth = strings.ToUpper(r.Auth); r.Auth != "" && !knownMechanism(r.Auth) {
		return fmt.Errorf("relay: unknown mechanism %q", printable(r.Auth))
	}
	if r.Auth == external {
		if r.CertFile == "" && (r.TLSConfig == nil || (len(r.TLSConfig.Certificates) == 0 && r.TLSConfig.GetClientCertificate == nil)) {
			return errors.New("relay: auth=external needs a client certificate: give cert and key")
		}
		if r.Password != "" || r.Token != nil || r.TLS == TLSNone {
			return errors.New("relay: auth=external takes no password, and needs TLS")
		}
		return nil
	}
	if (r.Auth != "" || r.Token != nil) && r.User == "" {
		return errors.New("relay: auth needs a user")
	}
	if r.User != "" && r.Password == "" && r.Token == nil {
		return errors.New("relay: there is a user but no password: give the password, or leave the user out")
	}
	if r.User != "" && r.TLS == TLSNone && !r.loopback && !r.ClearAuth {
		return errors.New("relay: credentials are not sent in clear: use TLS, or clear-auth=true if you must")
	}
	return nil
}

// checkWithout checks the names of extensions that are not to be used.
func checkWithout(keywords []string) error {
	for _, keyword := range keywords {
		if keyword = strings.ToUpper(keyword); keyword == "STARTTLS" || keyword == "AUTH" {
			return fmt.Errorf("without must not name %s: use tls, or leave the user out", keyword)
		}
		if keyword == "" || strings.ContainsFunc(keyword, func(c rune) bool { return !letterDigit(c) && c != '-' }) {
			return fmt.Errorf("without has %q, which is no name of an extension", printable(keyword))
		}
	}
	return nil
}

// limits completes the limits of the pool. A limit of the profile replaces a default that is wider.
func (r *relay) limits() {
	within := func(value int, f Fact[int]) int {
		if f.Sure() {
			return min(value, f.Value)
		}
		return value
	}
	r.Connections = cmp.Or(r.Connections, within(4, r.profile.Connections))
	r.MaxMessages = cmp.Or(r.MaxMessages, within(100, r.profile.Messages))
	r.MaxAge = cmp.Or(r.MaxAge, 5*time.Minute)
	if f := r.profile.Dials; r.DialRate == 0 && f.Sure() {
		_ = setRate(&r.DialRate, f.Value) // a test reads all values
	}
	if r.Idle == 0 {
		r.Idle = 30 * time.Second
		if limit := r.profile.IdleLimit(); limit > 0 {
			r.Idle = min(r.Idle, limit*4/5) // end the connection before the server does
		}
	}
}

// Send transfers one message to the recipients of env and returns when the outcome of each is known.
//
// data is the complete message in the format of RFC 5322 with CRLF line endings. Send does not change it, and it must not change
// while Send runs. A bare CR, a bare LF or a NUL anywhere is refused with [ClassMessage] before anything is sent. Send stuffs
// dots and adds a missing CRLF at the end. A header outside ASCII must be UTF-8. A header or local part outside ASCII needs a
// server that offers SMTPUTF8 (RFC 6531). Without the offer the message or the recipient fails permanently.
//
// The error is nil exactly when every recipient was accepted. Otherwise it is the [*Error] of the first recipient that was not
// accepted. Result.Outcomes has the outcome of each recipient. The message was certainly not accepted for a recipient with an
// error, unless the class is [ClassAmbiguous].
//
// When ctx is done before the final dot, Send gives up and nothing is accepted. Once the dot has left, Send waits for the
// reply even if ctx is done, for at most Timeouts.Dot.
//
// Calls are served in order. If a kept connection is dead before anything of the message was sent, Send uses the next connection
// without an error.
func (c *Client) Send(ctx context.Context, env Envelope, data []byte) (Result, error) {
	return c.sendBody(ctx, env, func() (body, error) { return checkBody(data) })
}

// sendBody sends what check returns, unless there is an error.
func (c *Client) sendBody(ctx context.Context, env Envelope, check func() (body, error)) (Result, error) {
	start := time.Now()
	j, err := newJob(ctx, env, check)
	result, sendErr := c.send(j, err)
	if f := c.relay.Observer.Message; f != nil {
		f(j.report(c.relay.addr, start, sendErr))
	}
	return result, sendErr
}

// send takes a job through the pool, unless there is an error already.
func (c *Client) send(j *job, err *Error) (Result, error) {
	if err != nil || len(j.todo) == 0 {
		return j.finish(err)
	}
	if cause := j.ctx.Err(); cause != nil {
		return j.finish(gaveUp(StageDial, cause))
	}
	if cause := c.rate.wait(j.ctx); cause != nil {
		return j.finish(gaveUp(StageDial, fmt.Errorf("waiting for the rate limit: %w", cause)))
	}
	defer j.awaitHook()
	turn := time.Now()
	defer func() { c.rate.took(time.Since(turn)) }()
	if err := c.pool.submit(j); err != nil {
		return j.finish(err)
	}
	select {
	case <-j.done:
	case <-j.ctx.Done():
		if err := c.pool.withdraw(j, j.ctx.Err()); err != nil {
			return j.finish(err)
		}
		<-j.done
	}
	return j.result()
}

// Close refuses further calls of [Client.Send] and fails those that wait for a connection or for the rate limit, all with
// [ErrClosed]. It lets messages that are being sent finish, says QUIT on the idle connections, and returns when everything that
// the client started has ended. Its error is always nil.
func (c *Client) Close() error {
	c.rate.close()
	c.pool.close()
	return nil
}

// Shutdown is [Client.Close] with a time limit. When ctx is done, it cuts the remaining connections. A message whose final dot
// has left without a reply then fails with [ClassAmbiguous]; any other unfinished message was not sent. Shutdown returns ctx's
// error if it cut a connection. It waits for running hooks of Envelope. Their context is that of Send.
func (c *Client) Shutdown(ctx context.Context) error {
	c.rate.close()
	stop := context.AfterFunc(ctx, c.pool.severAll)
	c.pool.close()
	if !stop() {
		return ctx.Err()
	}
	return nil
}

// Profile returns what is known of the provider: the profile that Config.Provider names, else the one of the host name, else
// the generic one. It is never nil and must not be changed.
func (c *Client) Profile() *Profile { return c.relay.profile }

// SetConnections changes the most connections at a time, as if Config.Connections had been n. A value below 1 counts as 1. A
// lower limit learnt from the server stays in force. A surplus connection ends when it is idle or has sent its message.
// SetConnections does not wait for that.
func (c *Client) SetConnections(n int) { c.pool.setConnections(max(1, n)) }

// String returns the URL of the relay without the password, and without a user name that is a secret as well.
func (c *Client) String() string { return c.relay.redacted() }
