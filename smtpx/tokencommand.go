package smtpx

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// CommandToken returns a source that runs a shell command for each token: sh -c, on Windows cmd /C. The command prints the token
// alone on a line, or a JSON object with access_token, accessToken or token, and optionally expires_in (seconds) or expires_on
// (seconds since 1970). The token is kept until five minutes before its end, at most a quarter of its life. The end of a JSON
// Web Token is read from the token. A token without an end is kept for five minutes.
//
// The command fails with [ErrTokenRefused] if it cannot be run (127, 126) or ends with the code 77 or 78 (sysexits.h: no
// permission, configuration). After any other code the source is asked again later. An error never quotes the command or its
// output. It quotes the end of the command's standard error, without words that could be a token.
func CommandToken(command string) TokenSource {
	return newTokenCache(func(ctx context.Context) (issued, error) { return runTokenCommand(ctx, command) }).get
}

// refusedCodes are the exit codes of a command that will not succeed later.
var refusedCodes = []int{77, 78, 126, 127}

func runTokenCommand(ctx context.Context, command string) (issued, error) {
	shell := []string{"sh", "-c"}
	if runtime.GOOS == "windows" {
		shell = []string{"cmd", "/C"}
	}
	cmd := exec.CommandContext(ctx, shell[0], append(shell[1:], command)...)
	cmd.WaitDelay = 100 * time.Millisecond // for what the command has started and left behind
	out, words := &firstBytes{limit: maxToken + 1}, &lastBytes{limit: 2000}
	cmd.Stdout, cmd.Stderr = out, words
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return issued{}, fmt.Errorf("command: %w", ctx.Err())
	case errors.As(err, &exit):
		text := fmt.Sprintf("command: %v%s", exit.ProcessState, words.quote())
		if slices.Contains(refusedCodes, exit.ExitCode()) {
			return issued{}, fmt.Errorf("%w: %s", ErrTokenRefused, text)
		}
		return issued{}, errors.New(text)
	case errors.Is(err, exec.ErrNotFound):
		return issued{}, fmt.Errorf("%w: command: %s is not installed", ErrTokenRefused, shell[0])
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return issued{}, fmt.Errorf("command: %w", err)
	}
	got, err := readCommandOutput(out.data)
	if err != nil {
		return issued{}, fmt.Errorf("command: %w", err)
	}
	return got, nil
}

// readCommandOutput reads a token, or a JSON object that holds one. Its errors quote nothing of it.
func readCommandOutput(out []byte) (issued, error) {
	text := strings.TrimSpace(string(withoutMark(out)))
	switch {
	case len(out) > maxToken:
		return issued{}, errors.New("the output is larger than any token")
	case text == "":
		return issued{}, errors.New("there is no output")
	}
	got := issued{token: text, life: -1}
	if strings.HasPrefix(text, "{") {
		var o struct {
			AccessToken      string      `json:"access_token"`
			AccessTokenCamel string      `json:"accessToken"` //nolint:tagliatelle // as Azure's command line prints it
			Token            string      `json:"token"`
			ExpiresIn        json.Number `json:"expires_in"`
			ExpiresOn        json.Number `json:"expires_on"`
		}
		if json.Unmarshal([]byte(text), &o) != nil {
			return issued{}, errors.New("the output is neither a token nor a JSON object")
		}
		got.token = cmp.Or(o.AccessToken, o.AccessTokenCamel, o.Token)
		if got.token == "" {
			return issued{}, errors.New("the output has no access_token")
		}
		if n, err := o.ExpiresIn.Int64(); err == nil {
			got.life = time.Duration(min(max(n, 0), 86400)) * time.Second
		} else if at, err := o.ExpiresOn.Int64(); err == nil {
			got.life = lifeUntil(at)
		}
	}
	if strings.ContainsFunc(got.token, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return issued{}, errors.New("the output has more than one word")
	}
	if got.life < 0 {
		got.life = tokenLife
		if at, ok := endOfJWT(got.token); ok {
			got.life = lifeUntil(at)
		}
	}
	return got, nil
}

// lifeUntil returns the time until a moment in seconds since 1970, at least 0 and at most a day.
func lifeUntil(at int64) time.Duration {
	return min(max(time.Until(time.Unix(at, 0)), 0), 24*time.Hour)
}

// endOfJWT returns when a JSON Web Token ends (RFC 7519 §4.1.4). It does not check the signature.
func endOfJWT(token string) (at int64, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return 0, false
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return 0, false
	}
	var claims struct {
		End json.Number `json:"exp"`
	}
	if json.Unmarshal(data, &claims) != nil {
		return 0, false
	}
	n, err := strconv.ParseFloat(claims.End.String(), 64)
	return int64(n), err == nil && n > 0 && n < 1e12
}

// firstBytes keeps the first octets of what is written, up to its limit.
type firstBytes struct {
	data  []byte
	limit int
}

// Write keeps what fits.
func (b *firstBytes) Write(p []byte) (int, error) {
	b.data = append(b.data, p[:min(len(p), b.limit-len(b.data))]...)
	return len(p), nil
}

// lastBytes keeps the last octets of what is written, up to its limit.
type lastBytes struct {
	data  []byte
	limit int
}

// Write keeps the end.
func (b *lastBytes) Write(p []byte) (int, error) {
	b.data = append(b.data, p...)
	b.data = append(b.data[:0], b.data[max(0, len(b.data)-b.limit):]...)
	return len(p), nil
}

// quote returns the last line for an error, "" if there is none.
func (b *lastBytes) quote() string {
	text := bytes.TrimSpace(b.data)
	line := strings.TrimSpace(string(text[bytes.LastIndexByte(text, '\n')+1:]))
	if line == "" {
		return ""
	}
	return ": " + printable(hideTokens(strings.ToValidUTF8(line, "?")))
}

// tokenWord is the length of the shortest word that could be a token.
const tokenWord = 20

// hideTokens replaces the words of a text that could be a token or a secret: long ones of the characters of base64, and what
// follows a = or a : in a word.
func hideTokens(text string) string {
	words := strings.Fields(text)
	for i, word := range words {
		if len(word) >= tokenWord {
			words[i] = redacted
		} else if at := strings.IndexAny(word, "=:"); at >= 0 && at < len(word)-1 {
			words[i] = word[:at+1] + redacted
		}
	}
	line := strings.Join(words, " ")
	return line[:min(len(line), 300)]
}
