package smtpx

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// parameters are the parameters of the URL's query. Each function sets a field from a value that is not empty.
var parameters = map[string]func(c *Config, value string) error{
	"tls": func(c *Config, v string) error {
		c.TLS = TLSMode(v)
		return nil
	},
	"ehlo":       func(c *Config, v string) error { c.EHLO = v; return nil },
	"auth":       func(c *Config, v string) error { c.Auth = strings.ToUpper(v); return nil },
	"clear-auth": func(c *Config, v string) error { return setBool(&c.ClearAuth, v) },
	"ca":         func(c *Config, v string) error { c.CAFile = v; return nil },
	"cert":       func(c *Config, v string) error { c.CertFile = v; return nil },
	"key":        func(c *Config, v string) error { c.KeyFile = v; return nil },
	"conns":      func(c *Config, v string) error { return setCount(&c.Connections, v) },
	"messages":   func(c *Config, v string) error { return setCount(&c.MaxMessages, v) },
	"rate":       func(c *Config, v string) error { return setRate(&c.Rate, v) },
	"dials":      func(c *Config, v string) error { return setRate(&c.DialRate, v) },
	"idle":       func(c *Config, v string) error { return setDuration(&c.Idle, v) },
	"age":        func(c *Config, v string) error { return setDuration(&c.MaxAge, v) },
	"provider":   func(c *Config, v string) error { c.Provider = v; return nil },
	"without":    func(c *Config, v string) error { c.Without = strings.Split(v, ","); return nil },
	"proxy":      func(c *Config, v string) error { c.Proxy = v; return nil },
	"local":      func(c *Config, v string) error { return setIP(&c.LocalAddr, v) },

	"token-command":      func(c *Config, v string) error { c.TokenCommand = v; return nil },
	"token-url":          func(c *Config, v string) error { c.OAuth2.TokenURL = v; return nil },
	"tenant":             func(c *Config, v string) error { c.OAuth2.Tenant = v; return nil },
	"client-id":          func(c *Config, v string) error { c.OAuth2.ClientID = v; return nil },
	"client-secret":      func(c *Config, v string) error { c.OAuth2.ClientSecret = v; return nil },
	"client-secret-file": func(c *Config, v string) error { c.OAuth2.ClientSecretFile = v; return nil },
	"refresh-token":      func(c *Config, v string) error { c.OAuth2.RefreshToken = v; return nil },
	"refresh-token-file": func(c *Config, v string) error { c.OAuth2.RefreshTokenFile = v; return nil },
	"service-account":    func(c *Config, v string) error { c.OAuth2.ServiceAccountFile = v; return nil },
	"scope":              func(c *Config, v string) error { c.OAuth2.Scope = v; return nil },
}

// parseURL reads a relay's URL. Its errors never quote the URL, which may hold a password.
func parseURL(raw string) (Config, error) {
	var c Config
	u, err := url.Parse(raw)
	if err != nil {
		// Errors of net/url quote the URL: a password may be in the place of the port.
		return c, errors.New("relay URL cannot be parsed: want smtp://user:password@host:port, the port a number, " +
			"special characters percent-encoded")
	}
	if err := c.takeHost(u); err != nil {
		return c, fmt.Errorf("relay URL: %w", err)
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return c, errors.New("relay URL: the port must be a number from 1 to 65535")
		}
		c.Port = int(n)
	}
	if u.User != nil {
		c.User = u.User.Username()
		c.Password, _ = u.User.Password()
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return c, errors.New("relay URL: the parameters cannot be parsed")
	}
	for name, values := range query {
		set, ok := parameters[name]
		if !ok {
			known := make([]string, 0, len(parameters))
			for p := range parameters {
				known = append(known, p)
			}
			slices.Sort(known)
			if strings.Contains(u.RawQuery, "@") { // behind a password with a bare ? and a bare @
				return c, errors.New("relay URL: unknown parameter; special characters in a password must be percent-encoded")
			}
			return c, fmt.Errorf("relay URL: unknown parameter %q; known are %s", name, strings.Join(known, ", "))
		}
		if len(values) != 1 || values[0] == "" {
			return c, fmt.Errorf("relay URL: parameter %s must be given once, with a value", name)
		}
		if name == "tls" && u.Scheme == "smtps" && values[0] != string(TLSImplicit) && values[0] != string(TLSRequired) {
			return c, errors.New("relay URL: smtps means implicit TLS; use smtp with tls=…")
		}
		if name == "tls" && u.Scheme == "smtps" {
			continue
		}
		if err := set(&c, values[0]); err != nil {
			return c, fmt.Errorf("relay URL: %s: %w", name, err)
		}
	}
	return c, nil
}

// takeHost reads the scheme and the host, or the path of a socket.
func (c *Config) takeHost(u *url.URL) error {
	switch u.Scheme {
	case "smtp":
	case "smtps":
		c.TLS = TLSImplicit
	case "smtp+unix":
		if u.Opaque != "" || u.Host != "" || len(u.Path) < 2 || u.Fragment != "" {
			return errors.New("smtp+unix wants the path of a socket: smtp+unix:///run/smtp.sock?parameters")
		}
		c.Socket, c.Host = u.Path, "localhost"
		return nil
	default:
		return errors.New("the scheme must be smtp, smtps or smtp+unix")
	}
	if u.Opaque != "" || u.Hostname() == "" {
		return errors.New("the host is missing")
	}
	if (u.Path != "" && u.Path != "/") || u.Fragment != "" {
		return errors.New("there must be nothing after the host but ?parameters")
	}
	c.Host = u.Hostname()
	return nil
}

func setBool(to *bool, value string) error {
	b, err := strconv.ParseBool(value)
	if err != nil {
		return errors.New("must be true or false")
	}
	*to = b
	return nil
}

func setCount(to *int, value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		return errors.New("must be a whole number from 1")
	}
	*to = n
	return nil
}

// setRate reads a number per second, or with a unit: 14, 0.5, 30/s, 600/m, 2000/h.
func setRate(to *float64, value string) error {
	number, unit, _ := strings.Cut(value, "/")
	per, ok := map[string]float64{"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
	n, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil || !(n > 0) || n > 1e9 {
		return errors.New("must be a number of messages per second, or with a unit as in 600/m (s, m, h, d)")
	}
	*to = n / per
	return nil
}

func setDuration(to *time.Duration, value string) error {
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		return errors.New("must be a duration such as 30s")
	}
	*to = d
	return nil
}

func setIP(to *net.IP, value string) error {
	ip := net.ParseIP(value)
	if ip == nil {
		return errors.New("must be an IP address")
	}
	*to = ip
	return nil
}

// userIsSecret tells whether the user name is a credential by itself. That is so if it equals the password, or if the provider
// uses a token as user name, as Postmark does.
func (r *relay) userIsSecret() bool {
	return r.User != "" && (r.User == r.Password || strings.Contains(r.profile.User.Value, "token as user"))
}

// redacted returns the URL without the password, and without a user name that is a secret.
func (r *relay) redacted() string {
	u := url.URL{Scheme: "smtp", Host: net.JoinHostPort(r.Host, strconv.Itoa(r.Port))}
	if r.TLS == TLSImplicit {
		u.Scheme = "smtps"
	}
	if r.Socket != "" {
		u = url.URL{Scheme: "smtp+unix", Path: r.Socket}
	}
	if r.User != "" && !r.userIsSecret() {
		u.User = url.User(r.User)
	}
	q := url.Values{}
	if r.Socket == "" && r.TLS != TLSImplicit && r.TLS != TLSStartTLS || r.Socket != "" && r.TLS != TLSNone {
		q.Set("tls", string(r.TLS))
	}
	if r.EHLO != "" {
		q.Set("ehlo", r.EHLO)
	}
	if r.Provider != "" {
		q.Set("provider", r.Provider)
	}
	u.RawQuery = q.Encode()
	return u.String()
}
