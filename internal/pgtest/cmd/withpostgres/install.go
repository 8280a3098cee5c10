//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// policyFile, where it exists, decides for Debian's packages whether a service may be started.
const policyFile = "/usr/sbin/policy-rc.d"

// install installs a package of Debian and says whether it did. It does so as root alone, and without starting a service that
// the package brings.
func install(name string) (installed bool, err error) {
	if os.Geteuid() != 0 {
		return false, nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return false, nil // another system: the user installs what it has
	}
	sayf("%s is not installed; installing Debian's package", name)
	allow, err := forbidServices(policyFile)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, allow()) }()
	for _, args := range [][]string{
		{"update", "-q"},
		{"install", "-q", "-y", "--no-install-recommends", name},
	} {
		if err := aptGet(args...); err != nil {
			return false, err
		}
	}
	return true, nil
}

// tools are the Debian packages whose programs check what this project writes, each with a file that it holds. Tests that need
// them are skipped where they are missing.
var tools = map[string]string{
	"python3-dkim": "/usr/lib/python3/dist-packages/dkim/__init__.py",
}

// installTools installs what is missing of the tools, as root on Debian alone. It is no error when that fails.
func installTools() {
	if os.Geteuid() != 0 {
		return
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return
	}
	updated := false
	for name, file := range tools {
		if _, err := os.Stat(file); err == nil {
			continue
		}
		sayf("%s is not installed; installing Debian's package", name)
		var err error
		if !updated {
			err = aptGet("update", "-q")
			updated = true
		}
		if err == nil {
			err = aptGet("install", "-q", "-y", "--no-install-recommends", name)
		}
		if err != nil {
			sayf("%s cannot be installed; tests that need it are skipped: %v", name, err)
		}
	}
}

func aptGet(args ...string) error {
	cmd := exec.Command("apt-get", args...) //nolint:noctx // the package manager must not be cut off
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("apt-get %s: %w", args[0], err)
	}
	return nil
}

// forbidServices writes a policy that keeps packages from starting services until the function that it returns is called. A policy that the
// machine has already stays as it is.
func forbidServices(policy string) (allow func() error, err error) {
	file, err := os.OpenFile(policy, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755) //nolint:gosec // a program
	if errors.Is(err, os.ErrExist) {
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, err
	}
	allow = func() error { return os.Remove(policy) }
	_, err = file.WriteString("#!/bin/sh\nexit 101\n")
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, errors.Join(err, allow())
	}
	return allow, nil
}
