package smtpx

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/net/idna"
)

// checkEHLO refuses a name that must not follow EHLO (RFC 5321 §4.1.1.1). A fully-qualified host name or an address literal
// may, and "localhost" towards loopback.
func checkEHLO(name string, loopback bool) error {
	if strings.HasPrefix(name, "[") {
		if !validLiteral(name) {
			return fmt.Errorf("EHLO name %q is no address literal such as [192.0.2.1] or [IPv6:2001:db8::1]", printable(name))
		}
		return nil
	}
	if strings.EqualFold(name, "localhost") || strings.HasSuffix(strings.ToLower(name), ".localhost") ||
		strings.EqualFold(name, "localhost.localdomain") {
		if loopback {
			return nil
		}
		return fmt.Errorf("EHLO name %q is refused by relays: set the host's fully-qualified name", printable(name))
	}
	if err := checkHostname(name); err != nil {
		return fmt.Errorf("EHLO name %q %w", printable(name), err)
	}
	return nil
}

// checkHostname refuses what is no fully-qualified ASCII host name (RFC 1123 §2.1). Its error completes a sentence that begins
// with the name.
func checkHostname(name string) error {
	switch {
	case name == "":
		return errors.New("is empty")
	case len(name) > 253:
		return errors.New("is longer than 253 characters")
	case strings.HasSuffix(name, "."):
		return errors.New("must not end in a dot")
	}
	labels := strings.Split(name, ".")
	if len(labels) < 2 {
		return errors.New("is not fully qualified: it has no dot")
	}
	for _, label := range labels {
		switch {
		case label == "":
			return errors.New("has an empty label")
		case len(label) > 63:
			return errors.New("has a label of more than 63 characters")
		case label[0] == '-' || label[len(label)-1] == '-':
			return errors.New("has a label that begins or ends with a hyphen")
		}
		for _, r := range label {
			if r == '_' {
				return errors.New("has an underscore, which host names must not have")
			}
			if !letterDigit(r) && r != '-' {
				return fmt.Errorf("has the character %q, which host names must not have", r)
			}
		}
	}
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		return errors.New("ends in a number: an address is written as a literal, [192.0.2.1]")
	}
	return nil
}

func letterDigit(r rune) bool {
	return (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z') || (r >= '0' && r <= '9')
}

// validLiteral tells whether s is an address literal of RFC 5321 §4.1.3. It does not know the General-address form, which has no
// registered tag.
func validLiteral(s string) bool {
	inner, ok := strings.CutPrefix(s, "[")
	if !ok || !strings.HasSuffix(inner, "]") {
		return false
	}
	inner = inner[:len(inner)-1]
	if len(inner) > 5 && strings.EqualFold(inner[:5], "IPv6:") {
		a, err := netip.ParseAddr(inner[5:])
		return err == nil && a.Is6() && a.Zone() == ""
	}
	a, err := netip.ParseAddr(inner)
	return err == nil && a.Is4()
}

// addressLiteral returns the literal of an address (RFC 5321 §4.1.3), "" if it is no IP address.
func addressLiteral(addr net.Addr) string {
	a, ok := addrIP(addr)
	if !ok {
		return ""
	}
	if a.Is4() {
		return "[" + a.String() + "]"
	}
	return "[IPv6:" + a.String() + "]"
}

func addrIP(addr net.Addr) (netip.Addr, bool) {
	if addr == nil {
		return netip.Addr{}, false
	}
	if t, ok := addr.(*net.TCPAddr); ok {
		a := t.AddrPort().Addr().Unmap().WithZone("")
		return a, a.IsValid()
	}
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Addr{}, false
	}
	return ap.Addr().Unmap().WithZone(""), true
}

// ehloName chooses the name for a connection.
func ehloName(configured string, local net.Addr, loopback bool) (string, error) {
	if configured != "" {
		return configured, nil // checked by Open
	}
	if host, err := os.Hostname(); err == nil && checkEHLO(host, false) == nil {
		return host, nil
	}
	if literal := addressLiteral(local); literal != "" {
		return literal, nil
	}
	if loopback {
		return "localhost", nil
	}
	return "", errors.New("no EHLO name: the host's name is not fully qualified and the local address is unknown; set one")
}

// relayHost checks the name or address of a relay. It returns an international name in its ASCII form, which is looked up and
// stands in certificates.
func relayHost(host string) (string, error) {
	if host == "" {
		return "", errors.New("the host is missing")
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return host, nil
	}
	if strings.Contains(host, ":") {
		return "", errors.New("the host is neither a name nor an address: an IPv6 address stands in brackets, [2001:db8::1]")
	}
	if !ascii(host) {
		a, err := idna.Lookup.ToASCII(host)
		if err != nil || a == "" {
			return "", fmt.Errorf("the host %q has no ASCII form", printable(host))
		}
		host = a
	}
	for _, r := range host {
		if !letterDigit(r) && !strings.ContainsRune("-._", r) {
			return "", fmt.Errorf("the host has the character %q", r)
		}
	}
	return host, nil
}

// loopbackHost tells whether a name or an address is this machine by definition (RFC 6761 §6.3).
func loopbackHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}
