// Command outboxctl looks at and mends an outbox of e-mail: `outboxctl --help` says how.
package main

import (
	"os"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/command"
)

func main() { os.Exit(command.Main(os.Args[1:])) }
