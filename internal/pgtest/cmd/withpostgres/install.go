//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// policyFile is the program that Debian's packages ask before they start a service. If it is missing, services may start.
const policyFile = "/usr/sbin/policy-rc.d"

// install installs a Debian package without starting its services. It returns false if the user is not root or the system has no
// apt-get.
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

// tools lists the Debian packages that some tests need, each with a pattern for one of its files. These tests are skipped if the
// package is missing.
var tools = []struct{ name, file string }{
	{"libfaketime", "/usr/lib/*/faketime/libfaketime.so.1"},
	{"libsasl2-modules", "/usr/lib/*/sasl2/libplain.so"},
	{"postfix", "/usr/sbin/postfix"},
	{"python3-dkim", "/usr/lib/python3/dist-packages/dkim/__init__.py"},
	{"python3-psycopg2", "/usr/lib/python3/dist-packages/psycopg2/__init__.py"},
	{"sasl2-bin", "/usr/sbin/saslpasswd2"},
	{"spin", "/usr/bin/spin"},
}

// installTools installs the missing packages of tools without starting their services. It does nothing if the user is not root or
// the system has no apt-get. A failure is only reported.
func installTools() {
	if os.Geteuid() != 0 {
		return
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return
	}
	var missing []string
	for _, tool := range tools {
		if found, err := filepath.Glob(tool.file); err != nil || len(found) == 0 {
			missing = append(missing, tool.name)
		}
	}
	if len(missing) == 0 {
		return
	}
	sayf("installing Debian's %s", strings.Join(missing, ", "))
	if err := installAll(missing); err != nil {
		sayf("%v; tests that need them are skipped", err)
	}
}

func installAll(names []string) (err error) {
	allow, err := forbidServices(policyFile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, allow()) }()
	if err := aptGet("update", "-q"); err != nil {
		return err
	}
	return aptGet(append([]string{"install", "-q", "-y", "--no-install-recommends"}, names...)...)
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

// forbidServices writes a policy that keeps packages from starting services. The function that it returns removes the policy
// again. An existing policy stays unchanged.
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
