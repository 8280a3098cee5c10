package smtptest

import (
	"context"
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // CRAM-MD5
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // SCRAM-SHA-1
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

func (s *session) auth(ctx context.Context, line, args string) error {
	name, initial, hasInitial := strings.Cut(args, " ")
	name = strings.ToUpper(name)
	a := s.ask(ctx, StageAuth, line, nil)
	if err := s.delay(ctx, a.Delay); err != nil {
		return err
	}
	if a.acts() {
		return s.act(ctx, a)
	}
	var reply string
	switch {
	case s.config.User == "" || !s.authOffered():
		reply = "503 5.5.1 AUTH is not offered"
	case s.info.User != "":
		reply = "503 5.5.1 authenticated already"
	case !slices.Contains(s.config.Mechanisms, name):
		reply = "504 5.5.4 mechanism not known"
	default:
		ok, err := s.exchange(ctx, name, initial, hasInitial)
		if err != nil {
			return err
		}
		reply = s.server.character.authFailed
		if s.config.Personality == SendGrid && s.config.User != "apikey" {
			ok = false
		}
		if ok {
			s.info.User, s.info.Mechanism = s.config.User, name
			reply = "235 2.7.0 authenticated"
		}
	}
	return s.say(ctx, reply, a.Trickle)
}

// exchange runs a mechanism and tells whether the credentials are right.
func (s *session) exchange(ctx context.Context, name, initial string, hasInitial bool) (bool, error) {
	respond := func(text string) (string, error) {
		if hasInitial {
			hasInitial = false
			return decoded(initial), nil
		}
		answer, err := s.challenge(ctx, text)
		return decoded(answer), err
	}
	switch name {
	case "PLAIN":
		answer, err := respond("")
		return answer == "\x00"+s.config.User+"\x00"+s.config.Password, err
	case "LOGIN":
		user, err := respond("Username:")
		if err != nil {
			return false, err
		}
		password, err := respond("Password:")
		return user == s.config.User && password == s.config.Password, err
	case "CRAM-MD5":
		challenge := "<" + rand.Text() + "@" + s.config.Hostname + ">"
		answer, err := respond(challenge)
		h := hmac.New(md5.New, []byte(s.config.Password))
		h.Write([]byte(challenge))
		return answer == s.config.User+" "+hex.EncodeToString(h.Sum(nil)), err
	case "XOAUTH2":
		answer, err := respond("")
		if err != nil || answer == "user="+s.config.User+"\x01auth=Bearer "+s.config.Password+"\x01\x01" {
			return err == nil, err
		}
		_, err = respond(`{"status":"401","schemes":"bearer"}`)
		return false, err
	case "OAUTHBEARER":
		answer, err := respond("")
		if err != nil || (strings.HasPrefix(answer, "n,a="+s.config.User+",\x01") &&
			strings.HasSuffix(answer, "\x01auth=Bearer "+s.config.Password+"\x01\x01")) {
			return err == nil, err
		}
		_, err = respond(`{"status":"invalid_token"}`)
		return false, err
	case "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS":
		return s.scram(name, respond)
	}
	return false, nil
}

// scram is the server's side of RFC 5802.
func (s *session) scram(name string, respond func(string) (string, error)) (bool, error) {
	newHash := sha256.New
	if strings.HasPrefix(name, "SCRAM-SHA-1-") || name == "SCRAM-SHA-1" {
		newHash = sha1.New
	}
	first, err := respond("")
	if err != nil {
		return false, err
	}
	parts := strings.SplitN(first, ",", 3)
	if len(parts) != 3 {
		return false, nil
	}
	header, bare := parts[0]+","+parts[1]+",", parts[2]
	user, nonce, _ := strings.Cut(strings.TrimPrefix(bare, "n="), ",r=")
	bound := []byte(header)
	if strings.HasSuffix(name, "-PLUS") {
		if s.channel == nil || header != "p=tls-exporter,," {
			return false, nil
		}
		bound = append(bound, s.channel...)
	} else if strings.HasPrefix(header, "p=") ||
		(strings.HasPrefix(header, "y") && slices.Contains(s.config.Mechanisms, name+"-PLUS")) {
		return false, nil // the client did not see the offer that the server made
	}
	nonce += rand.Text()
	const salt, rounds = "smtptest salt", 4096
	challenge := fmt.Sprintf("r=%s,s=%s,i=%d", nonce, base64.StdEncoding.EncodeToString([]byte(salt)), rounds)
	final, err := respond(challenge)
	if err != nil {
		return false, err
	}
	without, proofText, _ := strings.Cut(final, ",p=")
	message := bare + "," + challenge + "," + without
	mac := func(key []byte, text string) []byte {
		h := hmac.New(newHash, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	salted, err := pbkdf2.Key(newHash, s.config.Password, []byte(salt), rounds, newHash().Size())
	if err != nil {
		return false, err
	}
	clientKey := mac(salted, "Client Key")
	stored := newHash()
	stored.Write(clientKey)
	proof := mac(stored.Sum(nil), message)
	subtle.XORBytes(proof, proof, clientKey)
	if user != s.config.User || proofText != base64.StdEncoding.EncodeToString(proof) ||
		without != "c="+base64.StdEncoding.EncodeToString(bound)+",r="+nonce {
		return false, nil
	}
	_, err = respond("v=" + base64.StdEncoding.EncodeToString(mac(mac(salted, "Server Key"), message)))
	return true, err
}

// challenge sends a challenge and reads the response, still encoded.
func (s *session) challenge(ctx context.Context, text string) (string, error) {
	s.reply("334 " + base64.StdEncoding.EncodeToString([]byte(text)))
	return s.readLine(ctx)
}

func decoded(s string) string {
	p, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return ""
	}
	return string(p)
}
