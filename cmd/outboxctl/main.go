// Command outboxctl inspects and repairs an outbox of e-mail. `outboxctl --help` lists its commands.
package main

import (
	"os"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/command"
)

func main() { os.Exit(command.Main(os.Args[1:])) }
