package smtpx

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// OAuth2 describes how tokens are fetched from an identity provider (RFC 6749). The zero value fetches none. Otherwise the
// fields decide about the grant: a service account of Google (RFC 7523) if ServiceAccountFile is set, else a refresh token if
// there is one, else the client credentials.
//
// A token is kept until five minutes before its end, at most a quarter of its life. Requests use the proxy of the environment
// (HTTPS_PROXY) and follow no redirect. An error never holds a secret, even if the endpoint repeats one.
type OAuth2 struct {
	// TokenURL is the token endpoint: an https URL, or an http URL to loopback. Defaults to that of the service account's file,
	// then to that of the profile. {tenant} in it stands for Tenant.
	TokenURL string
	// Tenant is the directory of Microsoft Entra: its id or a domain of it.
	Tenant string
	// ClientID and ClientSecret name the application. A public client that uses a refresh token has no secret.
	ClientID     string
	ClientSecret string
	// RefreshToken is the long-lived token of the mailbox. If the endpoint replaces it, the new one is used from then on.
	RefreshToken string
	// ClientSecretFile and RefreshTokenFile are files that hold these values, and are read for each request.
	ClientSecretFile string
	RefreshTokenFile string
	// ServiceAccountFile is the JSON key of a Google service account that may act for the user (domain-wide delegation). It is
	// read for each request.
	ServiceAccountFile string
	// Scope is what the token is for, several separated by spaces. Defaults to that of the profile. A refresh token has a scope
	// already and needs none.
	Scope string
	// Rotated, when set, is called with a refresh token that replaces the current one. Store it: the old one may stop working.
	Rotated func(refreshToken string)
	// HTTP sends the requests. Defaults to a client of its own.
	HTTP *http.Client
}

// OAuthEndpoint tells where an identity provider issues the tokens of a relay.
type OAuthEndpoint struct {
	// TokenURL is the token endpoint. {tenant} stands for the customer's directory.
	TokenURL string `json:"token_url"`
	// Scope is the scope to ask for without a refresh token, "" if there is no such grant.
	Scope string `json:"scope,omitempty"`
}

// given tells whether anything is configured.
func (o *OAuth2) given() bool {
	return o.TokenURL+o.Tenant+o.ClientID+o.ClientSecret+o.RefreshToken+o.ClientSecretFile+o.RefreshTokenFile+
		o.ServiceAccountFile+o.Scope != ""
}

// source checks the fields, completes them from the profile and returns a source with a cache.
func (o *OAuth2) source(p *Profile, user string) (TokenSource, error) {
	if p.OAuth.Sure() {
		if o.RefreshToken == "" && o.RefreshTokenFile == "" {
			o.Scope = cmp.Or(o.Scope, p.OAuth.Value.Scope)
		}
		if o.ServiceAccountFile == "" {
			o.TokenURL = cmp.Or(o.TokenURL, p.OAuth.Value.TokenURL)
		}
	}
	if o.ClientSecret != "" && o.ClientSecretFile != "" || o.RefreshToken != "" && o.RefreshTokenFile != "" {
		return nil, errors.New("token: a secret is given both as a value and as a file")
	}
	if o.Tenant != "" && strings.ContainsFunc(o.Tenant, func(r rune) bool { return !letterDigit(r) && r != '-' && r != '.' }) {
		return nil, errors.New("token: tenant must be an id or a domain")
	}
	if strings.Contains(o.TokenURL, "{tenant}") && o.Tenant == "" {
		return nil, errors.New("token: tenant is missing: the id or a domain of the directory in Microsoft Entra")
	}
	o.TokenURL = strings.ReplaceAll(o.TokenURL, "{tenant}", o.Tenant)
	f := &tokenFetcher{OAuth2: *o, user: user, refresh: o.RefreshToken}
	if f.HTTP == nil {
		f.HTTP = tokenClient()
	}
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	return newTokenCache(f.fetch).get, nil
}

// tokenClient makes a client that keeps no connection: there is a request an hour.
func tokenClient() *http.Client {
	var t http.Transport
	if d, ok := http.DefaultTransport.(*http.Transport); ok {
		t.TLSHandshakeTimeout, t.ForceAttemptHTTP2 = d.TLSHandshakeTimeout, true
	}
	t.Proxy, t.DisableKeepAlives = http.ProxyFromEnvironment, true
	return &http.Client{
		Transport:     &t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// tokenFetcher asks a token endpoint.
type tokenFetcher struct {
	OAuth2
	user    string
	refresh string // the present refresh token
	read    string // what RefreshTokenFile held when it was last read
	basic   bool   // the endpoint wants the client's secret in the Authorization header
}

// check finds what is missing or cannot work. It reads the files.
func (f *tokenFetcher) check() error {
	if f.ServiceAccountFile != "" {
		if f.ClientID+f.ClientSecret+f.ClientSecretFile+f.RefreshToken+f.RefreshTokenFile != "" {
			return errors.New("a service account has no client and no refresh token")
		}
		key, err := readServiceAccount(f.ServiceAccountFile)
		if err != nil {
			return err
		}
		if f.Scope == "" {
			return errors.New("scope is missing")
		}
		return checkTokenURL(cmp.Or(f.TokenURL, key.TokenURI))
	}
	secret, err := f.secret()
	if err != nil {
		return err
	}
	token, err := f.refreshToken()
	switch {
	case err != nil:
		return err
	case f.ClientID == "":
		return errors.New("client-id is missing")
	case token == "" && secret == "":
		return errors.New("the secret is missing: give refresh-token for a mailbox, or client-secret for an application")
	case token == "" && f.Scope == "":
		return errors.New("scope is missing")
	case f.TokenURL == "":
		return errors.New("token-url is missing: the provider of this relay is not known")
	}
	return checkTokenURL(f.TokenURL)
}

// checkTokenURL refuses an endpoint that must not be told secrets. Its errors do not quote the URL.
func checkTokenURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "":
		return errors.New("token-url must be an https URL without a user")
	case u.Scheme == "https", u.Scheme == "http" && loopbackHost(u.Hostname()):
		return nil
	}
	return errors.New("token-url must begin with https://: secrets are not sent in clear")
}

// secret returns the client's secret, "" for a public client.
func (f *tokenFetcher) secret() (string, error) {
	if f.ClientSecretFile == "" {
		return f.ClientSecret, nil
	}
	return readSecret("client-secret-file", f.ClientSecretFile)
}

// refreshToken returns the present refresh token, "" for none. What is newly in the file replaces what the endpoint gave.
func (f *tokenFetcher) refreshToken() (string, error) {
	if f.RefreshTokenFile == "" {
		return f.refresh, nil
	}
	text, err := readSecret("refresh-token-file", f.RefreshTokenFile)
	if err != nil {
		return "", err
	}
	if text != f.read {
		f.read, f.refresh = text, text
	}
	return f.refresh, nil
}

// readSecret returns the single line of a file.
func readSecret(name, path string) (string, error) {
	data, err := readSmall(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	text := strings.TrimSpace(string(data))
	if text == "" || strings.ContainsAny(text, "\r\n\x00") {
		return "", fmt.Errorf("%s: %s does not hold one line", name, path)
	}
	return text, nil
}

// readSmall reads a file of at most maxToken octets, without a byte order mark.
func readSmall(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxToken+1))
	if err == nil && len(data) > maxToken {
		err = fmt.Errorf("%s is larger than any secret", path)
	}
	return withoutMark(data), err
}

// fetch asks for a new token.
func (f *tokenFetcher) fetch(ctx context.Context) (issued, error) {
	if f.ServiceAccountFile != "" {
		return f.fetchForAccount(ctx)
	}
	secret, err := f.secret()
	if err != nil {
		return issued{}, fmt.Errorf("%w: %w", ErrTokenRefused, err)
	}
	token, err := f.refreshToken()
	if err != nil {
		return issued{}, fmt.Errorf("%w: %w", ErrTokenRefused, err)
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	if token != "" {
		form = url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
	}
	if f.Scope != "" {
		form.Set("scope", f.Scope)
	}
	got, err := f.ask(ctx, f.TokenURL, form, secret)
	if err != nil {
		return issued{}, err
	}
	if next := got.RefreshToken; next != "" && token != "" && next != token {
		f.refresh = next
		if f.Rotated != nil {
			f.Rotated(next)
		}
	}
	return got.issued(), nil
}

// ask sends the client's credentials with a form. They stand in the form. If the endpoint does not know the client then, they
// are sent in the Authorization header, once, and from then on if that helps (RFC 6749 §2.3.1).
func (f *tokenFetcher) ask(ctx context.Context, endpoint string, form url.Values, secret string) (*tokenAnswer, error) {
	post := func(basic bool) (*tokenAnswer, error) {
		form := url.Values(http.Header(form).Clone())
		header := http.Header{}
		switch {
		case basic:
			r := http.Request{Header: header}
			r.SetBasicAuth(url.QueryEscape(f.ClientID), url.QueryEscape(secret))
		case f.ClientID != "":
			form.Set("client_id", f.ClientID)
			if secret != "" {
				form.Set("client_secret", secret)
			}
		}
		return f.post(ctx, endpoint, form, header, secret)
	}
	got, err := post(f.basic)
	if refused := (*refusedTokenError)(nil); f.basic || secret == "" || !errors.As(err, &refused) || refused.code != "invalid_client" {
		return got, err
	}
	again, errAgain := post(true)
	if errAgain != nil {
		return nil, err
	}
	f.basic = true
	return again, nil
}

// post sends a form and reads the answer.
func (f *tokenFetcher) post(
	ctx context.Context, endpoint string, form url.Values, header http.Header, secret string,
) (*tokenAnswer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, fmt.Errorf("%w: token-url cannot be used", ErrTokenRefused)
	}
	req.Header = header
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	resp, err := f.HTTP.Do(req)
	if err != nil {
		if quoted := (*url.Error)(nil); errors.As(err, &quoted) {
			err = quoted.Err // without the URL
		}
		return nil, &tokenOutageError{err: fmt.Errorf("endpoint %s: %w", req.URL.Host, err)}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxToken+1))
	if err != nil {
		return nil, &tokenOutageError{err: fmt.Errorf("endpoint %s: %w", req.URL.Host, err)}
	}
	hide := secrets{auth: true}
	for _, value := range []string{secret, form.Get("refresh_token"), form.Get("assertion")} {
		hide.add(value)
	}
	return readAnswer(resp, body, &hide)
}

// tokenAnswer is the answer of a token endpoint (RFC 6749 §5.1, §5.2).
type tokenAnswer struct {
	AccessToken  string      `json:"access_token"`
	ExpiresIn    json.Number `json:"expires_in"`
	RefreshToken string      `json:"refresh_token"`
	Code         string      `json:"error"`
	Description  string      `json:"error_description"`
}

// issued returns the token and its life.
func (a *tokenAnswer) issued() issued {
	life := tokenLife
	if n, err := strconv.ParseFloat(a.ExpiresIn.String(), 64); err == nil && n >= 0 {
		life = time.Duration(min(n, 86400)) * time.Second
	}
	return issued{a.AccessToken, life}
}

// refusedTokenError is an error that an identity provider names: it refuses the client, the secret, the refresh token or the
// consent.
type refusedTokenError struct{ code, text string }

// Error returns the words of the identity provider.
func (e *refusedTokenError) Error() string { return e.text }

// Unwrap returns ErrTokenRefused.
func (e *refusedTokenError) Unwrap() error { return ErrTokenRefused }

// passing are errors of an identity provider that end by themselves. Others need an operator.
var passing = []string{"temporarily_unavailable", "server_error", "slow_down"}

// readAnswer reads the body of an answer. hide knows the secrets that were sent.
func readAnswer(resp *http.Response, body []byte, hide *secrets) (*tokenAnswer, error) {
	var a tokenAnswer
	malformed := len(body) > maxToken || json.Unmarshal(body, &a) != nil
	where := "endpoint " + resp.Request.URL.Host
	if resp.StatusCode == http.StatusOK && a.AccessToken != "" && !malformed {
		if checkToken("", a.AccessToken) != nil {
			return nil, &tokenOutageError{err: fmt.Errorf("%s: the token has control characters", where)}
		}
		return &a, nil
	}
	// A name that is none may hold anything.
	if malformed || strings.ContainsFunc(a.Code, func(r rune) bool { return !letterDigit(r) && r != '_' && r != '-' && r != '.' }) {
		a.Code, a.Description = "", ""
	}
	text := fmt.Sprintf("%s: %d", where, resp.StatusCode)
	if a.Code != "" {
		text += " " + hide.scrub(a.Code)
	}
	if a.Description != "" {
		line, _, _ := strings.Cut(a.Description, "\n")
		text += ": " + printable(hide.scrub(strings.TrimSpace(line[:min(len(line), 300)])))
	}
	status := resp.StatusCode
	switch {
	case slices.Contains(passing, a.Code), status >= 500, status == http.StatusRequestTimeout, status == http.StatusTooManyRequests:
	case a.Code != "", status >= 400 && status != http.StatusForbidden && status != http.StatusProxyAuthRequired:
		return nil, &refusedTokenError{a.Code, text}
	case status == http.StatusOK:
		text = where + ": the answer holds no token"
	}
	wait, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || wait < 0 {
		wait = 0
	}
	return nil, &tokenOutageError{err: errors.New(text), wait: min(time.Duration(min(wait, 86400))*time.Second, maxRetryAfter)}
}
