package smtpx

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	netproxy "golang.org/x/net/proxy"
)

// dialFunc opens a transport.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// maxProxyReply is the most octets of the header with which a proxy answers CONNECT.
const maxProxyReply = 16 << 10

// proxy is a proxy through which a relay is reached. The relay's name is resolved by the proxy.
type proxy struct {
	scheme         string // socks5, http or https
	host, addr     string
	user, password string
	dial           dialFunc // to the proxy
}

// parseProxy reads the URL of a proxy. Its errors never quote the URL, which may hold a password.
func parseProxy(raw string, dial dialFunc) (*proxy, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("proxy must be a URL such as socks5://user:password@host:1080, special characters percent-encoded")
	}
	port, ok := map[string]string{"socks5": "1080", "socks5h": "1080", "http": "80", "https": "443"}[u.Scheme]
	if !ok {
		return nil, errors.New("proxy: the scheme must be socks5, http or https")
	}
	p := &proxy{scheme: strings.TrimSuffix(u.Scheme, "h"), dial: dial}
	if p.host, err = relayHost(u.Hostname()); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p.addr = net.JoinHostPort(p.host, cmp.Or(u.Port(), port))
	p.user = u.User.Username()
	p.password, _ = u.User.Password()
	if p.user == "" && p.password != "" || strings.ContainsAny(p.user+p.password, "\r\n\x00") ||
		strings.Contains(p.user, ":") && p.scheme != "socks5" {
		return nil, errors.New("proxy: the user or the password cannot be sent")
	}
	if len(p.user) > 255 || len(p.password) > 255 {
		return nil, errors.New("proxy: the user or the password is longer than 255 octets (RFC 1929)")
	}
	if p.user != "" && p.password == "" && p.scheme == "socks5" {
		return nil, errors.New("proxy: there is a user but no password")
	}
	return p, nil
}

// proxyError is the error of a proxy. refused tells that an operator must mend something.
type proxyError struct {
	err     error
	refused bool
}

// Error returns the words of the cause.
func (e *proxyError) Error() string { return "proxy: " + e.err.Error() }

// Unwrap returns the cause.
func (e *proxyError) Unwrap() error { return e.err }

// connect opens a transport to address through the proxy. It is a dialFunc.
func (p *proxy) connect(ctx context.Context, _, address string) (net.Conn, error) {
	nc, err := p.dial(ctx, "tcp", p.addr)
	if err != nil {
		return nil, &proxyError{err: err}
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	switch p.scheme {
	case "socks5":
		err = p.socks(ctx, nc, address)
	case "https":
		secured := tls.Client(nc, &tls.Config{ServerName: p.host, MinVersion: tls.VersionTLS12})
		if err = secured.HandshakeContext(ctx); err == nil {
			nc = secured
			err = p.tunnel(nc, address)
		}
	default:
		err = p.tunnel(nc, address)
	}
	if !stop() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = nc.Close()
		if known := (*proxyError)(nil); errors.As(err, &known) {
			return nil, err
		}
		return nil, &proxyError{err: err}
	}
	return nc, nil
}

// socks asks a SOCKS5 proxy for a connection (RFC 1928, RFC 1929).
func (p *proxy) socks(ctx context.Context, nc net.Conn, address string) error {
	var auth *netproxy.Auth
	if p.user != "" {
		auth = &netproxy.Auth{User: p.user, Password: p.password}
	}
	d, err := netproxy.SOCKS5("tcp", p.addr, auth, nil)
	if err != nil {
		return err
	}
	over, ok := d.(interface {
		DialWithConn(ctx context.Context, c net.Conn, network, address string) (net.Addr, error)
	})
	if !ok {
		return errors.New("SOCKS5 is not available")
	}
	if _, err = over.DialWithConn(ctx, nc, "tcp", address); err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok {
			err = op.Err // without the addresses, which stand in the configuration
		}
		text := err.Error()
		return &proxyError{fmt.Errorf("SOCKS5: %w", err), strings.Contains(text, "authentication") || strings.Contains(text, "not allowed")}
	}
	return nil
}

// tunnel asks an HTTP proxy for a connection (RFC 9110 §9.3.6). It reads not one octet behind the answer.
func (p *proxy) tunnel(nc net.Conn, address string) error {
	request := "CONNECT " + address + " HTTP/1.1\r\nHost: " + address + "\r\n"
	if p.user != "" {
		request += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(p.user+":"+p.password)) + "\r\n"
	}
	if _, err := nc.Write([]byte(request + "\r\n")); err != nil {
		return err
	}
	var head []byte
	for one := make([]byte, 1); !strings.HasSuffix(string(head[max(0, len(head)-4):]), "\r\n\r\n"); {
		if len(head) == maxProxyReply {
			return errors.New("the answer to CONNECT has no end")
		}
		if _, err := nc.Read(one); err != nil {
			return fmt.Errorf("no answer to CONNECT: %w", plainIO(err))
		}
		head = append(head, one[0])
	}
	line, _, _ := strings.Cut(string(head), "\r\n")
	version, status, _ := strings.Cut(line, " ")
	if !strings.HasPrefix(version, "HTTP/1.") || len(status) < 3 {
		return errors.New("the answer to CONNECT is not HTTP")
	}
	if status[0] == '2' {
		return nil
	}
	hide := secrets{auth: true}
	hide.add(p.password)
	hide.add(p.user + ":" + p.password)
	return &proxyError{
		fmt.Errorf("CONNECT is answered with %s", printable(hide.scrub(status[:min(len(status), 100)]))),
		status[:3] == "407" || status[:3] == "403" || status[:3] == "405",
	}
}
