// Package iostreams says what outboxctl reads from and writes to, and what these can do: whether a person is looking,
// how wide the screen is, whether it shows colour.
package iostreams

import (
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/term"
)

// EnvForceTTY names the environment variable that makes the program treat its streams as a terminal of so many columns.
const EnvForceTTY = "OUTBOX_FORCE_TTY"

// defaultWidth is that of a terminal which does not say.
const defaultWidth = 80

// Streams are the standard streams of one run. Data go to Out, everything else to Err.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer

	// InTTY, OutTTY and ErrTTY say whether a person is at the other end.
	InTTY, OutTTY, ErrTTY bool
	// Width is the width of the terminal in columns, 0 where Out is none.
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

// force heeds EnvForceTTY. A value that is no width means the default one.
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

// SetColor decides on colour: "always", "never", or "auto", which heeds NO_COLOR, CLICOLOR, CLICOLOR_FORCE and TERM and
// colours terminals alone. It says whether when is one of these.
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

// Color is the way in which a word stands out. The word itself always says the same.
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

// Paint returns text in a colour, where on says that colour is used.
func Paint(text string, c Color, on bool) string {
	if !on || c == "" || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// Confirm asks a question on Err and reads the answer from In. Only "y" and "yes" are consent.
func (s *Streams) Confirm(question string) (bool, error) {
	if _, err := io.WriteString(s.Err, question+" [y/N] "); err != nil {
		return false, err
	}
	line, err := readLine(s.In)
	if err != nil {
		return false, err
	}
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes", nil
}

// readLine reads up to the end of the line and not a byte more. The end of the input ends the line, too.
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
