package smtpx

import (
	"crypto/sha1"
	"encoding/base64"
	"strings"
	"testing"
)

// The examples of RFC 5802 §5 and RFC 7677 §3.
func TestSCRAMVectors(t *testing.T) {
	for name, tc := range map[string]struct{ nonce, first, challenge, answer, final string }{
		"SCRAM-SHA-1": {
			"fyko+d2lbbFgONRv9qkxdawL",
			"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
			"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
			"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
			"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
		},
		"SCRAM-SHA-256": {
			"rOprNGfwEbeRWgbNEkqO",
			"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
			"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
			"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
			"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
		},
	} {
		m, err := newSCRAM(name, "user", "pencil", nil)
		if err != nil {
			t.Fatal(err)
		}
		m.nonce = tc.nonce
		if first, err := m.start(); err != nil || string(first) != tc.first {
			t.Errorf("%s begins with %q, %v; want %q", name, first, err, tc.first)
		}
		if answer, err := m.next([]byte(tc.challenge)); err != nil || string(answer) != tc.answer {
			t.Errorf("%s answers %q, %v; want %q", name, answer, err, tc.answer)
		}
		if m.done() == nil {
			t.Errorf("%s is satisfied without a proof", name)
		}
		if _, err := m.next([]byte(tc.final)); err != nil || m.done() != nil {
			t.Errorf("%s: %v, %v", name, err, m.done())
		}
	}
}

func TestSCRAMRefuses(t *testing.T) {
	for challenge, want := range map[string]string{
		"":                                        "malformed",
		"r=clientserver,i=4096,s=QSXCR+Q6":        "malformed",
		"m=ext,r=clientserver,s=Qg==,i=4096":      "malformed",
		"r=otherserver,s=QSXCR+Q6,i=4096":         "nonce",
		"r=client,s=QSXCR+Q6,i=4096":              "nonce",
		"r=clientserver,s=,i=4096":                "salt",
		"r=clientserver,s=!,i=4096":               "salt",
		"r=clientserver,s=QSXCR+Q6,i=1":           "rounds",
		"r=clientserver,s=QSXCR+Q6,i=-1":          "rounds",
		"r=clientserver,s=QSXCR+Q6,i=99999999999": "rounds",
	} {
		m, err := newSCRAM("SCRAM-SHA-1", "user", "pencil", nil)
		if err != nil {
			t.Fatal(err)
		}
		m.nonce = "client"
		if _, err := m.start(); err != nil {
			t.Fatal(err)
		}
		if answer, err := m.next([]byte(challenge)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is answered with %q, %v; want an error about %s", challenge, answer, err, want)
		}
	}
	for _, final := range []string{"", "v=", "v=AAAA", "e=other-error", "x"} {
		m := &scram{newHash: sha1.New, serverSignature: []byte("right"), step: 1}
		if _, err := m.next([]byte(final)); err == nil || m.done() == nil {
			t.Errorf("the final message %q is taken", final)
		}
	}
}

// RFC 2195 §2.
func TestCRAMMD5Vector(t *testing.T) {
	m := &cramMD5{user: "tim", password: "tanstaaftanstaaf"}
	answer, err := m.next([]byte("<1896.697170952@postoffice.reston.mci.net>"))
	if want := "tim b913a602c7eda7a495b4e6e7334d3890"; err != nil || string(answer) != want {
		t.Errorf("answer %q, %v; want %q", answer, err, want)
	}
}

// RFC 7628 §4.1, and Google's example of XOAUTH2.
func TestTokenVectors(t *testing.T) {
	b := &oauthBearer{user: "user@example.com", token: "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==", host: "server.example.com", port: 143}
	first, err := b.start()
	want := "n,a=user@example.com,\x01host=server.example.com\x01port=143\x01auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"
	if err != nil || string(first) != want {
		t.Errorf("OAUTHBEARER begins with %q, %v", first, err)
	}
	x := &xoauth2{user: "someuser@example.com", token: "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg"}
	first, err = x.start()
	want = "dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJoZG1semRHRXVZMjl0Q2cBAQ=="
	if err != nil || base64.StdEncoding.EncodeToString(first) != want {
		t.Errorf("XOAUTH2 begins with %q, %v", first, err)
	}
	for _, token := range []string{"", "a\x01b", "a\r\nb"} {
		if _, err := (&xoauth2{user: "u", token: token}).start(); err == nil {
			t.Errorf("XOAUTH2 takes the token %q", token)
		}
		if _, err := (&oauthBearer{user: "u", token: token}).start(); err == nil {
			t.Errorf("OAUTHBEARER takes the token %q", token)
		}
	}
}

// FuzzChallenges throws challenges at every mechanism: none may panic, hang, or be satisfied without a proof.
func FuzzChallenges(f *testing.F) {
	f.Add("r=abc,s=QSXCR+Q6,i=4096", "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=")
	f.Add("", "")
	f.Add("e=invalid", "r=,s=,i=")
	f.Fuzz(func(t *testing.T, first, second string) {
		scram, err := newSCRAM("SCRAM-SHA-1", "user", "pencil", nil)
		if err != nil {
			t.Fatal(err)
		}
		scram.nonce = "abc"
		for _, m := range []mechanism{
			&plain{"user", "pencil"}, &login{[]string{"user", "pencil"}}, &cramMD5{user: "user", password: "pencil"},
			&xoauth2{"user", "token"}, &oauthBearer{"user", "token", "host", 25}, scram,
		} {
			if _, err := m.start(); err != nil {
				t.Fatal(err)
			}
			for _, challenge := range []string{first, second, first} {
				if _, err := m.next([]byte(challenge)); err != nil {
					break
				}
			}
			if m == mechanism(scram) && m.done() == nil {
				t.Errorf("SCRAM is satisfied by %q, %q", first, second)
			}
		}
	})
}
