package smtpx

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
)

func parse(s string) (Reply, error) {
	return readReply(bufio.NewReaderSize(strings.NewReader(s), maxReplyLine))
}

func TestReadReply(t *testing.T) {
	for _, tc := range []struct {
		in       string
		code     int
		enhanced string
		text     string
	}{
		{"250 ok\r\n", 250, "", "ok"},
		{"250\r\n", 250, "", ""},
		{"250 \r\n", 250, "", ""},
		{"250 ok\n", 250, "", "ok"},
		{"250 2.1.0 ok\r\n", 250, "2.1.0", "ok"},
		{"250 2.1.0\r\n", 250, "2.1.0", ""},
		{"550-5.1.1 no such\r\n550 5.1.1 user\r\n", 550, "5.1.1", "no such user"},
		{"550-5.1.1 no such\r\n550 user\r\n", 550, "5.1.1", "no such user"},
		{"550-first\r\n550-\r\n550 last\r\n", 550, "", "first  last"},
		{"550 4.1.1 contradicts\r\n", 550, "", "4.1.1 contradicts"},
		{"250 2.1 short\r\n", 250, "", "2.1 short"},
		{"250 2.1.0.1 long\r\n", 250, "", "2.1.0.1 long"},
		{"250 2.7.1234 digits\r\n", 250, "", "2.7.1234 digits"},
		{"535 5.7.139 off\r\n", 535, "5.7.139", "off"},
		{"421 4.7.0  two spaces\r\n", 421, "4.7.0", "two spaces"},
		{"334 VXNlcm5hbWU6\r\n", 334, "", "VXNlcm5hbWU6"},
		{"554 \xff\x00\x1b[31mred\r\n", 554, "", "\xff\x00\x1b[31mred"},
	} {
		r, err := parse(tc.in)
		if err != nil {
			t.Errorf("%q: %v", tc.in, err)
			continue
		}
		if r.Code != tc.code || r.Enhanced != tc.enhanced || r.Text() != tc.text {
			t.Errorf("%q is %d %q %q, want %d %q %q", tc.in, r.Code, r.Enhanced, r.Text(), tc.code, tc.enhanced, tc.text)
		}
	}
}

func TestReadReplyRefuses(t *testing.T) {
	for _, in := range []string{
		"\r\n",
		"25\r\n",
		"hello\r\n",
		"099 low\r\n",
		"150 preliminary\r\n",
		"650 high\r\n",
		"2a0 letter\r\n",
		"250_ok\r\n",
		"2500 ok\r\n",
		"250-one\r\n550 two\r\n",
		"250-one\r\nnot a reply\r\n",
		"250 " + strings.Repeat("x", maxReplyBytes) + "\r\n",
		strings.Repeat("250-x\r\n", maxReplyLines) + "250 x\r\n",
		strings.Repeat("250-"+strings.Repeat("x", 4000)+"\r\n", 20) + "250 x\r\n",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
	} {
		if r, err := parse(in); !errors.Is(err, errReply) {
			t.Errorf("%.40q is %v, %v; want an error of malformed reply", in, r, err)
		}
	}
	for _, in := range []string{"", "250", "250-one\r\n", "250-one\r\n25"} {
		if r, err := parse(in); !errors.Is(err, io.EOF) {
			t.Errorf("%q is %v, %v; want the end of the stream", in, r, err)
		}
	}
}

func TestReplyStringIsPrintable(t *testing.T) {
	r, err := parse("550-5.7.1 evil\x1b]0;title\x07\r\n550-5.7.1 \xff\xfe \xc2\x85\r\n550 5.7.1 \xe2\x80\xae\x7fend\ttab\r\n")
	if err != nil {
		t.Fatal(err)
	}
	want := "550 5.7.1 evil?]0;title? ?? ? ??end tab"
	if got := r.String(); got != want {
		t.Errorf("String is %q, want %q", got, want)
	}
	if (Reply{}).String() != "" {
		t.Error("the zero reply is not empty")
	}
}

func FuzzReadReply(f *testing.F) {
	for _, s := range []string{"250 ok\r\n", "550-5.1.1 a\r\n550 5.1.1 b\r\n", "250", "\r\n", "421 4.7.0 x\n", "250-a\r\n550 b\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parse(s)
		if err != nil && r.Code == 0 {
			if r.Lines != nil {
				t.Errorf("a reply %v came with the error %v", r, err)
			}
			return
		}
		if err != nil && r.Code < 400 {
			t.Errorf("%v came with the error %v", r, err)
		}
		if r.Code < 200 || r.Code > 599 || len(r.Lines) == 0 || len(r.Lines) > maxReplyLines {
			t.Errorf("%q is %#v", s, r)
		}
		if r.Enhanced != "" && int(r.Enhanced[0]-'0') != r.Code/100 {
			t.Errorf("enhanced code %s of a %d", r.Enhanced, r.Code)
		}
		if line := r.String(); strings.ContainsFunc(line, unprintable) {
			t.Errorf("String is %q", line)
		}
	})
}
