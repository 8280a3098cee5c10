package smtptest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// RequireEHLO fails the test unless strict servers accept name after EHLO. The name must be a fully-qualified host name. Servers
// with the personalities [StrictFQDN] and [GmailRelay] must accept a message from a client that uses it. RequireEHLO does not
// ask DNS whether the name leads to this host. Use it in CI or in a Git hook for the configured name of a service.
func RequireEHLO(tb TB, name string) {
	tb.Helper()
	if reason := notQualified(name); reason != "" {
		tb.Fatalf("EHLO name %q %s; relays such as smtp-relay.gmail.com refuse it", name, reason)
		return
	}
	for _, p := range []Personality{StrictFQDN, GmailRelay} {
		if err := tryEHLO(p, name); err != nil {
			tb.Fatalf("EHLO name %q is refused by a server like %s: %v", name, p, err)
			return
		}
	}
}

// tryEHLO runs a dialogue up to RCPT.
func tryEHLO(p Personality, name string) (err error) {
	srv, err := Start(Config{Personality: p, TLS: NoTLS, NoListen: true})
	if err != nil {
		return err
	}
	defer srv.Close()
	nc, err := srv.Dial(context.Background(), "", "")
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	return converse(nc, "", "EHLO "+name, "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>", "QUIT")
}

// converse sends the lines one by one and stops at the first refusal. The first line is empty: it waits for the greeting.
func converse(nc net.Conn, lines ...string) error {
	br := bufio.NewReader(nc)
	for _, line := range lines {
		if line != "" {
			if _, err := io.WriteString(nc, line+"\r\n"); err != nil {
				return err
			}
		}
		for {
			reply, err := br.ReadString('\n')
			if err != nil {
				return err
			}
			if reply[0] != '2' {
				return fmt.Errorf("%s: %s", line, strings.TrimSpace(reply))
			}
			if len(reply) < 4 || reply[3] != '-' {
				break
			}
		}
	}
	return nil
}

// notQualified tells why a name is no fully-qualified host name, "" if it is one. Address literals pass.
func notQualified(name string) string {
	if strings.HasPrefix(name, "[") && strings.HasSuffix(name, "]") {
		address := strings.TrimPrefix(strings.ToLower(name[1:len(name)-1]), "ipv6:")
		if net.ParseIP(address) == nil {
			return "is no address literal"
		}
		return ""
	}
	lower := strings.ToLower(name)
	switch {
	case name == "":
		return "is empty"
	case lower == "localhost" || strings.HasPrefix(lower, "localhost.") || strings.HasSuffix(lower, ".localhost"):
		return "means this host to everybody"
	case net.ParseIP(name) != nil:
		return "is an address without brackets"
	case strings.HasSuffix(name, "."):
		return "ends in a dot"
	case len(name) > 253:
		return "is longer than 253 characters"
	case !strings.Contains(name, "."):
		return "is not fully qualified"
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "has an invalid label"
		}
		for _, r := range label {
			if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' {
				return fmt.Sprintf("has the character %q", r)
			}
		}
	}
	return ""
}
