package smtpx

import (
	"context"
	"crypto/tls"
	"io"
	"slices"
)

// Report is the result of [Client.Probe].
type Report struct {
	// Host is the host:port of the configuration, Remote the address that answered.
	Host, Remote string
	// Banner is the server's greeting.
	Banner Reply
	// EHLO is the name that the client gave.
	EHLO string
	// TLSVersion and TLSCipher are as crypto/tls names them, "" without TLS.
	TLSVersion, TLSCipher string
	// Extensions are the lines of the last EHLO reply after the first, keywords in upper case, sorted.
	Extensions []string
	// Mechanism is the one that AUTH used, "" for none.
	Mechanism string
	// Steps are the stages in order, with their durations. A stage that failed is the last.
	Steps []Step
}

// Probe opens a connection of its own, goes through TLS, EHLO and AUTH, says NOOP and QUIT, and reports. It sends no message
// and does not use the pool. An error is an [*Error]; the report holds what was found before it. When ctx is done, Probe ends
// with its error.
func (c *Client) Probe(ctx context.Context) (Report, error) {
	if c.pool.isClosed() {
		return Report{Host: c.relay.addr}, notSent(StageDial, ErrClosed)
	}
	s, err := openSession(ctx, c.relay)
	if err != nil {
		return s.report(), err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.raw.Close() })
	defer stop()
	defer func() { _ = s.raw.Close() }()
	err = s.timed(StageIdle, func() (Reply, *Error) {
		r, err := s.command(StageIdle, c.relay.Timeouts.Mail, "NOOP")
		if err == nil && !r.Positive() {
			err = s.refused(StageIdle, r)
		}
		return r, err
	})
	if err != nil {
		if cause := ctx.Err(); cause != nil {
			err = gaveUp(StageIdle, cause)
		}
		return s.report(), err
	}
	s.within(c.relay.Timeouts.Quit)
	if _, err := io.WriteString(s.nc, "QUIT\r\n"); err == nil {
		_, _ = s.readReply()
	}
	return s.report(), nil
}

func (s *session) report() Report {
	r := Report{Host: s.relay.addr, Banner: s.scrub(s.banner), EHLO: s.name, Mechanism: s.mech, Steps: s.steps}
	if s.raw != nil {
		r.Remote = s.raw.RemoteAddr().String()
	}
	if s.tls != nil {
		r.TLSVersion, r.TLSCipher = tls.VersionName(s.tls.Version), tls.CipherSuiteName(s.tls.CipherSuite)
	}
	for keyword, args := range s.ext {
		if args != "" {
			keyword += " " + args
		}
		r.Extensions = append(r.Extensions, s.secrets.scrub(keyword))
	}
	slices.Sort(r.Extensions)
	return r
}
