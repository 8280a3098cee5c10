//go:build !unix

package pgtest

import (
	"errors"
	"os/exec"
)

// owner is unused on this system, where no server is started.
type owner struct{}

func serverOwner() (*owner, error) {
	return nil, errors.New("test servers are started on Unix systems alone; set " + EnvServer + " to the URL of a server")
}

func (*owner) run(*exec.Cmd)         {}
func (*owner) own(string) error      { return nil }
func (*owner) canReach(string) error { return nil }
func detach(*exec.Cmd)               {}
