// Command testsum runs go test and then lists the skipped tests with their reasons, which go test itself does not show:
//
//	testsum -race ./...
//
// The arguments are those of go test. The output has one line for each package that passes, and the full output of each
// failure. The exit code is that of go test.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	// go test gets these signals, too, from the terminal or the parent process. This program ends after go test has ended.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(context.WithoutCancel(ctx), os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum: error:", err)
	}
	os.Exit(code)
}

func run(ctx context.Context, args []string) (int, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		return 1, err
	}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	readErr := summarise(events, os.Stdout)
	if err := cmd.Wait(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.Exited() {
			return exit.ExitCode(), readErr
		}
		return 1, errors.Join(err, readErr)
	}
	if readErr != nil {
		return 1, readErr
	}
	return 0, nil
}
