package smtpx_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// reading counts the readers of a message that are open.
type reading struct {
	data  []byte
	wrap  func(n int, r io.Reader) io.Reader // of the n-th reader, from 1
	opens atomic.Int32
	now   atomic.Int32
}

func (r *reading) open() (io.ReadCloser, error) {
	n := int(r.opens.Add(1))
	r.now.Add(1)
	var from io.Reader = bytes.NewReader(r.data)
	if r.wrap != nil {
		from = r.wrap(n, from)
	}
	return &closing{from, &r.now}, nil
}

type closing struct {
	io.Reader
	now *atomic.Int32
}

func (c *closing) Close() error { c.now.Add(-1); return nil }

// large makes a message of about n octets with dots, long lines and an open end.
func large(n int, header string) []byte {
	var b bytes.Buffer
	b.WriteString("From: <a@example.com>\r\nSubject: " + header + "\r\n\r\n")
	for i := 0; b.Len() < n; i++ {
		b.WriteString([]string{".\r\n", "..x\r\n", "\r\n", "text \xc3\xa9\r\n", strings.Repeat("long", 200) + "\r\n", ".", strings.Repeat("-", i%77) + "\r\n"}[i%7])
	}
	return append(b.Bytes(), "the end."...)
}

func TestSendReader(t *testing.T) {
	for name, extensions := range map[string][]string{
		"DATA":             {"8BITMIME", "SMTPUTF8"},
		"DATA, pipelining": {"8BITMIME", "SMTPUTF8", "PIPELINING"},
		"BDAT":             {"8BITMIME", "SMTPUTF8", "PIPELINING", "CHUNKING"},
	} {
		for _, size := range []int{100, 128<<10 - 30, 128 << 10, 700_000} {
			for _, slow := range []bool{false, true} {
				t.Run(fmt.Sprint(name, " ", size, " ", slow), func(t *testing.T) {
					r := &reading{data: large(size, "caf\u00e9")}
					if slow {
						r.wrap = func(_ int, from io.Reader) io.Reader { return iotest.DataErrReader(iotest.HalfReader(from)) }
					}
					srv, client := newRelay(t, smtptest.Config{Extensions: extensions, MaxRecipients: 1})
					_, err := client.SendReader(testContext(t), envelope("b@example.net", "c@example.net"), r.open)
					if err != nil {
						t.Fatal(err)
					}
					got := srv.Messages()
					for _, m := range got {
						if !bytes.Equal(m.Data, append(bytes.Clone(r.data), "\r\n"...)) {
							t.Errorf("%d octets arrived, want %d", len(m.Data), len(r.data)+2)
						}
					}
					opens := int32(3)
					if len(r.data) <= 128<<10 {
						opens = 1
					}
					if len(got) != 2 || r.now.Load() != 0 || r.opens.Load() != opens {
						t.Errorf("%d messages, %d open readers, %d opened", len(got), r.now.Load(), r.opens.Load())
					}
				})
			}
		}
	}
}

// A source that fails, shrinks, or returns something else never makes a message.
func TestSourceThatChanges(t *testing.T) {
	boom := errors.New("disk failure")
	data := large(300_000, "x")
	for name, second := range map[string]func(io.Reader) io.Reader{
		"fails": func(r io.Reader) io.Reader { return io.MultiReader(io.LimitReader(r, 200_000), iotest.ErrReader(boom)) },
		"fails at the end": func(r io.Reader) io.Reader {
			return io.MultiReader(io.LimitReader(r, int64(len(data))-1), iotest.ErrReader(boom))
		},
		"is shorter":    func(r io.Reader) io.Reader { return io.LimitReader(r, int64(len(data))-1) },
		"is empty":      func(io.Reader) io.Reader { return strings.NewReader("") },
		"has a bare LF": func(io.Reader) io.Reader { return strings.NewReader(strings.Repeat("a\n", len(data))) },
		"ends in a line": func(r io.Reader) io.Reader {
			return io.MultiReader(io.LimitReader(r, int64(len(data))-2), strings.NewReader("\r\n"))
		},
		"is ASCII now": func(io.Reader) io.Reader { return strings.NewReader(strings.Repeat("a", len(data))) },
	} {
		for _, extensions := range [][]string{{"8BITMIME"}, {"8BITMIME", "PIPELINING", "CHUNKING"}} {
			r := &reading{data: data, wrap: func(n int, from io.Reader) io.Reader {
				if n == 2 {
					return second(from)
				}
				return from
			}}
			srv, client := newRelay(t, smtptest.Config{Extensions: extensions})
			_, err := client.SendReader(testContext(t), envelope("b@example.net"), r.open)
			wantError(t, err, smtpx.StageData, smtpx.ClassRecycle)
			if strings.Contains(name, "fails") != errors.Is(err, boom) {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := client.SendReader(testContext(t), envelope("b@example.net"), r.open); err != nil {
				t.Errorf("%s: afterwards: %v", name, err)
			}
			client.Close()
			if srv.Count() != 1 || r.now.Load() != 0 {
				t.Errorf("%s: %d messages, %d readers", name, srv.Count(), r.now.Load())
			}
		}
	}
	_, client := newRelay(t, smtptest.Config{})
	for name, open := range map[string]func() (io.ReadCloser, error){
		"not opened": func() (io.ReadCloser, error) { return nil, boom },
		"not read":   func() (io.ReadCloser, error) { return io.NopCloser(iotest.ErrReader(boom)), nil },
	} {
		_, err := client.SendReader(testContext(t), envelope("b@example.net"), open)
		wantError(t, err, smtpx.StageData, smtpx.ClassRecycle)
		if !errors.Is(err, boom) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A message is checked in parts as it is in one piece.
func TestSourceIsCheckedLikeABody(t *testing.T) {
	_, client := newRelay(t, smtptest.Config{Extensions: []string{"8BITMIME"}})
	filler := strings.Repeat("x", 128<<10)
	for _, tail := range []string{
		"\r\n", "a\n", "\r", "\r\r\n", "\r\nb\n", "a\x00\r\n", "\r\n\n", "", ".", "\r\n.", "\xc3\xa9\r\n", "\xc3", "\xc3\r\n", "\xff\r\n",
	} {
		for _, header := range []string{"A: ", "A: b\r\n\r\n"} {
			for cut := range 4 {
				data := []byte(header + filler[len(header)+3-cut:] + tail)
				_, want := client.Send(testContext(t), envelope("b@example.net"), data)
				r := &reading{data: data}
				_, got := client.SendReader(testContext(t), envelope("b@example.net"), r.open)
				if fmt.Sprint(want) != fmt.Sprint(got) {
					t.Errorf("%q after %d octets: %v, want %v", tail, len(data)-len(tail), got, want)
				}
			}
		}
	}
}

// Memory does not grow with the size of a message.
func TestSendReaderTakesLittleMemory(t *testing.T) {
	const size = 32 << 20
	var taken atomic.Int64
	addr := script(t, func(c net.Conn, r *bufio.Reader, _ int) {
		say(c, "220 x")
		for body := false; ; {
			l, err := r.ReadSlice('\n')
			switch {
			case err != nil:
				return
			case body && string(l) == ".\r\n":
				body = false
				say(c, "250 ok")
			case body:
				taken.Add(int64(len(l)))
			case string(l) == "DATA\r\n":
				body = true
				say(c, "354 go on")
			default:
				say(c, "250 ok")
			}
		}
	})
	client := open(t, "smtp://"+addr+"?tls=none")
	source := func() (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(strings.NewReader("A: b\r\n\r\n"), io.LimitReader(endless{}, size))), nil
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := client.SendReader(testContext(t), envelope("b@example.net"), source); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > size/16 || taken.Load() < size {
		t.Errorf("%d octets were allocated for a message of %d", took, size)
	}
}

// endless repeats a line.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	const line = "sixty-two characters of text, and so on until the line is full\r\n"
	n := 0
	for len(p)-n >= len(line) {
		n += copy(p[n:], line)
	}
	if n == 0 {
		n = copy(p, strings.Repeat("x", len(p)))
	}
	return n, nil
}
