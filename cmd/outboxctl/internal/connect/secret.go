package connect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/internal/textfile"
)

// errTooLong is returned for text longer than longestSecret, which cannot be a password.
var errTooLong = errors.New("it is longer than any password")

// longestSecret is the largest size of a password, in bytes.
const longestSecret = 64 << 10

func readSecretFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", &exit.Error{Err: fmt.Errorf("read the relay's password: %w", err)}
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, longestSecret+1))
	if err == nil && len(text) > longestSecret {
		err = errTooLong
	}
	if err != nil {
		return "", &exit.Error{Err: fmt.Errorf("read the relay's password from %s: %w", path, err)}
	}
	return oneLine("file "+path, text)
}

// runSecretCommand returns the output of a shell command. Errors never quote the command or its output, because both may
// hold a secret.
func runSecretCommand(ctx context.Context, command string, stderr io.Writer) (string, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Stderr = stderr
	text, err := cmd.Output()
	if err != nil {
		return "", &exit.Error{Err: fmt.Errorf("the command for the relay's password failed: %w", err)}
	}
	if len(text) > longestSecret {
		return "", &exit.Error{Err: fmt.Errorf("the command for the relay's password: %w", errTooLong)}
	}
	return oneLine("command", text)
}

// oneLine returns the single line of text without its line ending. An empty text and a second line are errors.
func oneLine(source string, text []byte) (string, error) {
	text, err := textfile.Trim(text)
	if err != nil {
		return "", &exit.Error{Err: fmt.Errorf("the password %s gave text that %w", source, err)}
	}
	line := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	switch {
	case line == "":
		return "", &exit.Error{Err: fmt.Errorf("the password %s gave nothing", source)}
	case strings.ContainsAny(line, "\r\n\x00"):
		return "", &exit.Error{Err: fmt.Errorf("the password %s gave more than one line", source)}
	default:
		return line, nil
	}
}
