package smtpx

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// TokenSource returns a token for OAUTHBEARER or XOAUTH2. If refresh is set, the server has just refused the last token, and the
// source must not return it from a cache. Many goroutines may call a source at a time. It must return when ctx is done.
//
// An error means that there is no token now and that nothing was sent. Wrap [ErrTokenRefused] in it if asking again is useless.
type TokenSource func(ctx context.Context, refresh bool) (string, error)

const (
	// tokenMargin is how long before its end a token is replaced, at most a quarter of its life. Microsoft's High Volume Email
	// refuses a token in its last minutes (501 5.5.127).
	tokenMargin = 5 * time.Minute
	// tokenLife is how long a token is used that does not say how long it lives.
	tokenLife = 5 * time.Minute
	// maxToken is the most octets of a token, or of an answer that holds one.
	maxToken = 64 << 10
)

// issued is a token with the time that it lives, 0 if it is not to be kept.
type issued struct {
	token string
	life  time.Duration
}

// tokenCache keeps a token until shortly before its end. All callers share one request.
type tokenCache struct {
	fetch func(ctx context.Context) (issued, error)
	turn  chan struct{} // held by the caller that fetches; guards the rest

	token   string
	fetched time.Time
	ends    time.Time
	renew   time.Time // some time before ends
}

func newTokenCache(fetch func(ctx context.Context) (issued, error)) *tokenCache {
	return &tokenCache{fetch: fetch, turn: make(chan struct{}, 1)}
}

// get is a TokenSource. While a token is still good, an outage of the place that it comes from is no error.
func (c *tokenCache) get(ctx context.Context, refresh bool) (string, error) {
	asked := time.Now()
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	defer func() { <-c.turn }()
	if c.fetched.After(asked) || (!refresh && time.Now().Before(c.renew)) {
		return c.token, nil // another caller fetched it meanwhile, or it is good for a while
	}
	got, err := c.fetch(ctx)
	switch {
	case err == nil:
	case !refresh && time.Now().Before(c.ends) && !errors.Is(err, ErrTokenRefused):
		return c.token, nil
	default:
		return "", err
	}
	c.token, c.fetched = got.token, time.Now()
	c.ends = c.fetched.Add(got.life)
	c.renew = c.ends.Add(-min(tokenMargin, got.life/4))
	return c.token, nil
}

// tokenOutageError is the error of an endpoint that gives no token now. wait is how long it asks to wait, 0 if it does not say.
type tokenOutageError struct {
	err  error
	wait time.Duration
}

// Error returns the words of the cause.
func (e *tokenOutageError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *tokenOutageError) Unwrap() error { return e.err }

// setToken makes the source of tokens that the configuration describes.
func (r *relay) setToken() error {
	sources := 0
	for _, given := range []bool{r.Token != nil, r.TokenCommand != "", r.OAuth2.given()} {
		if given {
			sources++
		}
	}
	var err error
	switch {
	case sources == 0:
		return nil
	case sources > 1:
		return errors.New("relay: tokens have two sources: give Token, a token command, or the client of an identity provider")
	case r.User == "":
		return errors.New("relay: a token needs a user: put the mailbox before the host")
	case r.TokenCommand != "":
		r.Token = CommandToken(r.TokenCommand)
	case r.Token == nil:
		if r.Token, err = r.OAuth2.source(r.profile, r.User); err != nil {
			return fmt.Errorf("relay: %w", err)
		}
	}
	if r.Auth != "" && !slices.Contains(tokenMechanisms, r.Auth) {
		if r.TokenCommand != "" || r.OAuth2.given() {
			return fmt.Errorf("relay: auth=%s does not use a token: leave it out, or take xoauth2 or oauthbearer", printable(r.Auth))
		}
	}
	return nil
}
