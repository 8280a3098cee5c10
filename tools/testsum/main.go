// Command testsum runs go test and ends its output with what was skipped and why, which go test itself tells nobody:
//
//	testsum -race ./...
//
// The arguments are those of go test. What passes is one line for each package; what fails is shown in full. It exits as
// go test does.
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
	// go test gets these signals too, from the terminal or from the program above, and ends; then so does this one.
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
