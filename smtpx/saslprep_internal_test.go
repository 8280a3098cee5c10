package smtpx

import (
	"strings"
	"testing"
)

// The examples of RFC 4013 §3, and other uses of SASLprep. "" is an error.
func TestSASLprep(t *testing.T) {
	for _, tc := range []struct{ in, user, password string }{
		{"I\u00adX", "IX", "IX"},
		{"user", "user", "user"},
		{"USER", "USER", "USER"},
		{"\u00aa", "a", "a"},
		{"\u2168", "IX", "IX"},
		{"\u0007", "", ""},
		{"\u0627\u0031", "", ""},

		{"p\u00e4ss", "p\u00e4ss", "p\u00e4ss"},
		{"pa\u0308ss", "p\u00e4ss", "p\u00e4ss"},
		{"two\u00a0words\u3000here", "two words here", "two words here"},
		{"\u0627\u0628", "\u0627\u0628", "\u0627\u0628"},
		{"\u0627a\u0628", "", ""},        // RFC 3454 §6: no mixture of directions
		{"\U0001f600", "\U0001f600", ""}, // younger than Unicode 3.2
		{"a\x00b", "", ""},
		{"a\u2028b", "", ""},
		{"a\xffb", "", ""},
		{"\ue000", "", ""},
	} {
		user, err := prepareUser(tc.in)
		if user != tc.user || (err == nil) != (tc.user != "") {
			t.Errorf("the user %+q is %+q, %v; want %+q", tc.in, user, err, tc.user)
		}
		password, perr := preparePassword(tc.in)
		if password != tc.password || (perr == nil) != (tc.password != "") {
			t.Errorf("the password %+q is %+q, %v; want %+q", tc.in, password, perr, tc.password)
		}
		for _, err := range []error{err, perr} {
			if err != nil && strings.Contains(err.Error(), tc.in) {
				t.Errorf("the error quotes %+q: %v", tc.in, err)
			}
		}
	}
	if _, err := prepareUser("\u00ad"); err == nil {
		t.Error("a user name of which nothing is left is taken")
	}
}
