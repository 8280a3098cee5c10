package smtpx

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// maxAddresses is the most further addresses that are tried for one connection.
const maxAddresses = 3

// tryOthers sets up a session with another address of the relay after the first one accepted the connection and then failed in
// its greeting or in TLS. One bad host of several must not stop a relay. It returns nil if no address succeeds. The caller
// reports the first error then.
func (s *session) tryOthers(ctx context.Context, err *Error) *session {
	if !s.relay.direct || s.raw == nil || ctx.Err() != nil || !faultOfHost(err) {
		return nil
	}
	if _, perr := netip.ParseAddr(s.relay.Host); perr == nil {
		return nil
	}
	failed, _ := addrIP(s.raw.RemoteAddr())
	for _, ip := range s.relay.otherAddresses(ctx, failed) {
		other := s.again(net.JoinHostPort(ip.String(), strconv.Itoa(s.relay.Port)))
		if other.open(ctx) == nil {
			return other
		}
		if ctx.Err() != nil {
			return nil
		}
	}
	return nil
}

// faultOfHost tells whether a failure may be that of one host, and not that of the account or the client.
func faultOfHost(err *Error) bool {
	return err.Stage == StageTLS || err.Stage == StageBanner && (err.Class == ClassUnreachable || err.Class == ClassTransient)
}

// otherAddresses returns addresses of the relay without one that failed. The other family goes first.
func (r *relay) otherAddresses(ctx context.Context, failed netip.Addr) []netip.Addr {
	resolver := r.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	ctx, cancel := context.WithTimeout(ctx, r.Timeouts.Dial)
	defer cancel()
	all, err := resolver.LookupNetIP(ctx, "ip", r.Host)
	if err != nil {
		return nil
	}
	var first, second []netip.Addr
	for _, ip := range all {
		switch ip = ip.Unmap(); {
		case ip == failed:
		case ip.Is4() != failed.Is4():
			first = append(first, ip)
		default:
			second = append(second, ip)
		}
	}
	others := slices.Concat(first, second)
	return others[:min(len(others), maxAddresses)]
}

// again returns a session that dials an address, with the token of the one that failed.
func (s *session) again(address string) *session {
	return &session{relay: s.relay, number: s.number, address: address, token: s.token, secrets: s.secrets}
}

// dialPause spaces new connections by the rate. It returns how long to wait before the next one, and counts it if that is 0.
// The caller holds mu.
func (p *pool) dialPause() time.Duration {
	if p.relay.DialRate <= 0 {
		return 0
	}
	now := time.Now()
	if wait := p.nextDial.Sub(now); wait > 0 {
		return wait
	}
	p.nextDial = now.Add(time.Duration(float64(time.Second) / p.relay.DialRate))
	return 0
}
