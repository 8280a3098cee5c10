package smtptest

import (
	"context"
	"encoding/base64"
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
		reply = "535 5.7.8 authentication credentials invalid"
		if ok {
			s.info.User, s.info.Mechanism = s.config.User, name
			reply = "235 2.7.0 authenticated"
		}
	}
	return s.say(ctx, reply, a.Trickle)
}

// exchange runs a mechanism and tells whether the credentials are right.
func (s *session) exchange(ctx context.Context, name, initial string, hasInitial bool) (bool, error) {
	switch name {
	case "PLAIN":
		if !hasInitial {
			var err error
			if initial, err = s.challenge(ctx, ""); err != nil {
				return false, err
			}
		}
		p, err := base64.StdEncoding.DecodeString(initial)
		return err == nil && string(p) == "\x00"+s.config.User+"\x00"+s.config.Password, nil
	case "LOGIN":
		user := initial
		if !hasInitial {
			var err error
			if user, err = s.challenge(ctx, "Username:"); err != nil {
				return false, err
			}
		}
		password, err := s.challenge(ctx, "Password:")
		return decoded(user) == s.config.User && decoded(password) == s.config.Password, err
	}
	return false, nil
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
