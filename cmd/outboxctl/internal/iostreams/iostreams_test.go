package iostreams

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// streams returns streams with an environment.
func streams(tty bool, env map[string]string) *Streams {
	return &Streams{Err: io.Discard, OutTTY: tty, ErrTTY: tty, Getenv: func(name string) string { return env[name] }}
}

func TestSetColor(t *testing.T) {
	for _, tt := range []struct {
		name string
		tty  bool
		when string
		env  map[string]string
		want bool
	}{
		{"terminal", true, "auto", nil, true},
		{"pipe", false, "auto", nil, false},
		{"NO_COLOR", true, "auto", map[string]string{"NO_COLOR": "1", "CLICOLOR_FORCE": "1"}, false},
		{"empty NO_COLOR does not count", true, "auto", map[string]string{"NO_COLOR": ""}, true},
		{"CLICOLOR=0", true, "auto", map[string]string{"CLICOLOR": "0"}, false},
		{"CLICOLOR_FORCE", false, "auto", map[string]string{"CLICOLOR_FORCE": "1"}, true},
		{"CLICOLOR_FORCE=0", false, "auto", map[string]string{"CLICOLOR_FORCE": "0"}, false},
		{"dumb terminal", true, "auto", map[string]string{"TERM": "dumb"}, false},
		{"always", false, "always", map[string]string{"NO_COLOR": "1"}, true},
		{"never", true, "never", map[string]string{"CLICOLOR_FORCE": "1"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := streams(tt.tty, tt.env)
			if !s.SetColor(tt.when) {
				t.Fatalf("SetColor(%q) is refused", tt.when)
			}
			if s.OutColor != tt.want || s.ErrColor != tt.want {
				t.Errorf("colour on out %t and err %t, want %t", s.OutColor, s.ErrColor, tt.want)
			}
		})
	}
	if streams(true, nil).SetColor("sometimes") {
		t.Error(`SetColor("sometimes") is accepted`)
	}
}

func TestForceTTY(t *testing.T) {
	for value, width := range map[string]int{"120": 120, "yes": defaultWidth, "-3": defaultWidth} {
		s := streams(false, map[string]string{EnvForceTTY: value})
		s.force()
		if !s.InTTY || !s.OutTTY || !s.ErrTTY || s.Width != width {
			t.Errorf("%s=%s: %+v, want a terminal of %d columns", EnvForceTTY, value, s, width)
		}
	}
	s := streams(false, nil)
	s.force()
	if s.OutTTY || s.Width != 0 {
		t.Errorf("without %s: %+v, want no terminal", EnvForceTTY, s)
	}
}

func TestPaint(t *testing.T) {
	if got := Paint("x", Red, true); got != "\x1b[31mx\x1b[0m" {
		t.Errorf("Paint = %q", got)
	}
	for _, got := range []string{Paint("x", Red, false), Paint("x", "", true)} {
		if got != "x" {
			t.Errorf("Paint = %q, want the plain word", got)
		}
	}
}

func TestConfirm(t *testing.T) {
	for answer, want := range map[string]bool{
		"y\n": true, "YES\r\n": true, "  yes\n": true, "y": true,
		"\n": false, "": false, "n\n": false, "yeah\n": false, "no\ny\n": false,
	} {
		var asked strings.Builder
		s := &Streams{In: iotest.OneByteReader(strings.NewReader(answer)), Err: &asked}
		got, err := s.Confirm(t.Context(), "Really?")
		if err != nil || got != want {
			t.Errorf("answer %q: %t, %v; want %t", answer, got, err, want)
		}
		if asked.String() != "Really? [y/N] " {
			t.Errorf("asked %q", asked.String())
		}
	}
	s := &Streams{In: iotest.ErrReader(io.ErrClosedPipe), Err: io.Discard}
	if ok, err := s.Confirm(t.Context(), "Really?"); ok || err == nil {
		t.Errorf("a broken input: %t, %v", ok, err)
	}
}

// A question ends with the context, although nobody answers.
func TestConfirmEndsWithTheContext(t *testing.T) {
	in, out := io.Pipe()
	defer func() { _ = out.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	var asked strings.Builder
	s := &Streams{In: in, Err: writerFunc(func(p []byte) (int, error) { cancel(); return asked.Write(p) })}
	if ok, err := s.Confirm(ctx, "Really?"); ok || !errors.Is(err, context.Canceled) || !strings.HasPrefix(asked.String(), "Really? [y/N] ") {
		t.Errorf("%t, %v after %q", ok, err, &asked)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestConfirmLeavesTheRestOfTheInput(t *testing.T) {
	in := strings.NewReader("y\nrest")
	if _, err := (&Streams{In: in, Err: io.Discard}).Confirm(t.Context(), "?"); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(in); string(rest) != "rest" {
		t.Errorf("the rest is %q", rest)
	}
}
