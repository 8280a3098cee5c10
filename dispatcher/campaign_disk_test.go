package dispatcher_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/store/postgres"
)

// smallDisk mounts a file system of a few megabytes. It skips the test if this process may not mount.
func smallDisk(t *testing.T, megabytes int) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "outbox-disk-") //nolint:usetesting // the database's own user must be able to reach it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm,mode=0777", megabytes), "tmpfs", dir).CombinedOutput()
	if err != nil {
		t.Skipf("a full disk needs a small file system, and this process may not mount one: %s", bytes.TrimSpace(out))
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// fill writes a file until its disk is full.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	_ = f.Close()
	return func() {
		if err := os.Remove(name); err != nil {
			t.Error(err)
		}
	}
}

// The disk is full while mail goes out. The application gets a clear error, and nothing of its transaction stays. Queued mail
// waits. Once there is room everything goes out, once.
func TestTheDiskIsFull(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		disk := smallDisk(t, 8)
		diskFull(t, newKillingOn(t, disk+"/app.db"), disk)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		disk := smallDisk(t, 40)
		cluster := pgtest.StartForTest(t, pgtest.Options{})
		space := filepath.Join(disk, "space")
		admin, err := postgres.Open(cluster.DSN())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = admin.Close() }()
		// The server, which is another user, makes its own folder.
		if _, err := admin.ExecContext(t.Context(), "COPY (SELECT 1) TO PROGRAM 'mkdir "+space+"'"); err != nil {
			t.Fatal(err)
		}
		for _, query := range []string{"CREATE TABLESPACE small LOCATION '" + space + "'", "CREATE DATABASE small TABLESPACE small"} {
			if _, err := admin.ExecContext(t.Context(), query); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() { // else the files are on the disk when it is to be unmounted
			admin, err := postgres.Open(cluster.DSN())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = admin.Close() }()
			for _, query := range []string{"DROP DATABASE small WITH (FORCE)", "DROP TABLESPACE small"} {
				if _, err := admin.ExecContext(context.WithoutCancel(t.Context()), query); err != nil {
					t.Error(err)
				}
			}
		})
		diskFull(t, newKillingOn(t, strings.Replace(cluster.DSN(), "/postgres?", "/small?", 1)), disk)
	})
}

func diskFull(t *testing.T, k *killing, disk string) {
	t.Helper()
	var log logBook
	d := newDispatcher(t, dispatcher.Config{Queue: k.testQueue, Lease: campaignLease, Poll: 20 * time.Millisecond, Logger: log.logger()}, openRelay(t, k.relay))
	defer start(t, d)()
	k.place(100)
	k.progressFrom(0, 10)
	free := fill(t, disk)
	freed := false
	defer func() {
		if !freed {
			free()
		}
	}()
	// The space inside the database's own files is used up first.
	var refused error
	stored := 0
	for range 2000 {
		if refused = k.tryPlace(); refused != nil {
			break
		}
		stored++
	}
	if refused == nil || !strings.Contains(refused.Error(), "full") && !strings.Contains(refused.Error(), "No space left") {
		t.Fatalf("after %d more messages on a full disk an application gets %v", stored, refused)
	}
	free()
	freed = true
	k.await("an application can enqueue again", func() (bool, error) {
		err := k.tryPlace()
		return err == nil, err
	})
	began := time.Now()
	k.drain()
	k.audit(fmt.Sprintf("the application was refused with %q after %d messages more; when there was room everything was out after %v; the log says %d lines",
		refused, stored, time.Since(began).Round(time.Millisecond), strings.Count(log.String(), "\n")))
}
