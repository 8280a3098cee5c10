// Package iostreams holds the standard streams of outboxctl and their abilities: terminal or not, width, and colour.
package iostreams

import (
	"context"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/term"
)

// EnvForceTTY names an environment variable that holds a width in columns. If it is set, all streams count as a terminal of
// that width.
const EnvForceTTY = "OUTBOX_FORCE_TTY"

// defaultWidth is the width of a terminal whose size is unknown, in columns.
const defaultWidth = 80

// Streams holds the standard streams of one run. Data go to Out, everything else to Err.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer

	// InTTY, OutTTY and ErrTTY say whether the stream is a terminal.
	InTTY, OutTTY, ErrTTY bool
	// Width is the width of the terminal in columns. It is 0 if Out is not a terminal.
	Width int
	// OutColor and ErrColor say whether colour may be used.
	OutColor, ErrColor bool

	// Getenv reads the environment.
	Getenv func(string) string
}

// System returns the streams of the process.
func System() *Streams {
	s := &Streams{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		InTTY: isTerminal(os.Stdin), OutTTY: isTerminal(os.Stdout), ErrTTY: isTerminal(os.Stderr),
		Getenv: os.Getenv,
	}
	if s.OutTTY {
		s.Width = defaultWidth
		if w, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil && w > 0 {
			s.Width = w
		}
	}
	s.force()
	_ = s.SetColor("auto") // always valid
	return s
}

// force applies EnvForceTTY. A value that is not a positive number stands for defaultWidth.
func (s *Streams) force() {
	value := s.Getenv(EnvForceTTY)
	if value == "" {
		return
	}
	s.InTTY, s.OutTTY, s.ErrTTY = true, true, true
	s.Width = defaultWidth
	if w, err := strconv.Atoi(value); err == nil && w > 0 {
		s.Width = w
	}
}

// SetColor turns colour on ("always"), off ("never"), or on for terminals ("auto"). With "auto" the variables NO_COLOR,
// CLICOLOR, CLICOLOR_FORCE and TERM can change this. SetColor returns false for any other value.
func (s *Streams) SetColor(when string) bool {
	switch when {
	case "always":
		s.OutColor, s.ErrColor = true, true
	case "never":
		s.OutColor, s.ErrColor = false, false
	case "auto":
		s.OutColor, s.ErrColor = s.autoColor(s.OutTTY), s.autoColor(s.ErrTTY)
	default:
		return false
	}
	return true
}

func (s *Streams) autoColor(tty bool) bool {
	force := s.Getenv("CLICOLOR_FORCE")
	switch {
	case s.Getenv("NO_COLOR") != "":
		return false
	case force != "" && force != "0":
		return true
	case s.Getenv("CLICOLOR") == "0", s.Getenv("TERM") == "dumb":
		return false
	default:
		return tty
	}
}

// Color highlights a word. It never carries information that the word does not.
type Color string

// The colours, as the numbers of ANSI's SGR sequence.
const (
	Bold   Color = "1"
	Dim    Color = "2"
	Red    Color = "31"
	Green  Color = "32"
	Yellow Color = "33"
	Blue   Color = "34"
)

// Paint returns text in a colour if on is true, and unchanged otherwise.
func Paint(text string, c Color, on bool) string {
	if !on || c == "" || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// Confirm asks a question on Err and reads the answer from In. Only "y" and "yes" count as consent, in either case. It returns
// when ctx ends, with the cause.
func (s *Streams) Confirm(ctx context.Context, question string) (bool, error) {
	if _, err := io.WriteString(s.Err, question+" [y/N] "); err != nil {
		return false, err
	}
	type answer struct {
		line string
		err  error
	}
	read := make(chan answer, 1)
	go func() { // nothing ends the reading of a terminal; the process does
		line, err := readLine(s.In)
		read <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		_, _ = io.WriteString(s.Err, "\n")
		return false, context.Cause(ctx)
	case a := <-read:
		word := strings.ToLower(strings.TrimSpace(a.line))
		return word == "y" || word == "yes", a.err
	}
}

// readLine reads one line and not a byte beyond it. The end of the input also ends the line.
func readLine(r io.Reader) (string, error) {
	var line []byte
	var b [1]byte
	for {
		n, err := r.Read(b[:])
		if n > 0 {
			if b[0] == '\n' {
				return string(line), nil
			}
			line = append(line, b[0])
		}
		switch {
		case err == io.EOF:
			return string(line), nil
		case err != nil:
			return "", err
		}
	}
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
