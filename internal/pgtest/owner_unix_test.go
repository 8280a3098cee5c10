//go:build unix

package pgtest

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// alive says whether there is a process pid.
func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestCanReach(t *testing.T) {
	closed := filepath.Join(t.TempDir(), "closed")
	inside := filepath.Join(closed, "inside")
	if err := os.MkdirAll(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := (*owner)(nil).canReach(inside); err != nil {
		t.Errorf("this process's own user: %v", err)
	}
	if err := (&owner{name: "someone"}).canReach("/"); err != nil {
		t.Errorf("the root folder: %v", err)
	}
	err := (&owner{name: "someone"}).canReach(inside)
	if err == nil || !strings.Contains(err.Error(), "someone") {
		t.Errorf("a closed folder: %v", err)
	}
}

func TestServerOwnerIsNeverRoot(t *testing.T) {
	o, err := serverOwner()
	if err != nil {
		t.Fatal(err)
	}
	if isRoot := os.Geteuid() == 0; (o != nil) != isRoot || (isRoot && o.uid == 0) {
		t.Errorf("serverOwner = %+v for user %d", o, os.Geteuid())
	}
}
