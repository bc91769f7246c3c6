package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/ops"
	"banger/testdata/deaf"
)

// strangerName is what this program is called where it is root of a user namespace of
// its own, which lets an owner mount what he likes.
const strangerName = "stranger"

// stall gives files that are never answered for, and looks that nobody waits.
func (a *attacker) stall() (err error) {
	ctx := context.Background()
	vm, release, err := a.reserve(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	for _, what := range []string{"fuse", "overlay"} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Args = []string{strangerName, what, a.socket, a.dir, vm.Handle}
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
			Pdeathsig:   unix.SIGKILL,
		}
		var said strings.Builder
		cmd.Stdout, cmd.Stderr = &said, os.Stderr
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("become root of a user namespace: %w", err)
		}
		end := make(chan error, 1)
		go func() { end <- cmd.Wait() }()
		for ended := false; !ended; {
			select {
			case err := <-end:
				if ended = true; err != nil {
					return fmt.Errorf("%s: %w", what, err)
				}
			case <-time.After(50 * time.Millisecond):
			}
			begin := time.Now()
			_, _, err := ops.Hello.Call(ctx, a.client, ops.None{})
			if took := time.Since(begin); err != nil || took > patience/2 {
				a.breach("Hello beside a file on %s: %v after %v", what, err, took)
			}
			a.answered("Hello", err)
		}
		for line := range strings.Lines(said.String()) {
			op, code, _ := strings.Cut(strings.TrimSpace(line), " ")
			a.tally(op, code)
			if code != string(ops.Invalid) {
				a.breach("%s: a file on %s that never answers: %s", op, what, code)
			}
		}
	}
	return nil
}

// strange mounts a file system that does not answer, and another one over it if args
// say so, gives its file to the helper, and prints the answers.
func strange(args []string) int {
	if err := strangely(args[0], args[1], args[2], args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "stranger:", err)
		return 1
	}
	return 0
}

func strangely(what, socket, dir, handle string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	lower := filepath.Join(dir, what+"-lower")
	if err := os.Mkdir(lower, 0o700); err != nil {
		return err
	}
	files, err := deaf.Mount(lower, 0)
	if err != nil {
		return err
	}
	go files.Serve()
	mounted := lower
	if what == "overlay" {
		if mounted, err = overlay(dir, lower); err != nil {
			return err
		}
	}
	// The first close teaches the kernel to ask nobody about the others: this process
	// would wait for its own answer when it is killed.
	if err := errors.Join(touch(mounted), touch(lower)); err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(mounted, "disk"))
	if err != nil {
		return err
	}
	files.Quiet()
	w := &wire{socket: socket}
	for _, op := range ops.All() {
		d := op.Declaration()
		if d.MaxFiles == 0 {
			continue
		}
		s, err := wellFormed(op, handle, digestOf("nobody's"))
		if err != nil {
			return err
		}
		got, err := w.say(s.envelope(nil), int(f.Fd()))
		if err != nil {
			return err
		}
		fmt.Println(d.Name, got.code)
	}
	return nil
}

// touch opens the file and closes it.
func touch(dir string) error {
	f, err := os.Open(filepath.Join(dir, "disk"))
	if err == nil {
		err = f.Close()
	}
	return err
}

// overlay mounts an overlay over lower and an empty folder.
func overlay(dir, lower string) (string, error) {
	empty, merged := filepath.Join(dir, "empty"), filepath.Join(dir, "merged")
	if err := errors.Join(os.Mkdir(empty, 0o700), os.Mkdir(merged, 0o700)); err != nil {
		return "", err
	}
	if err := unix.Mount("overlay", merged, "overlay", 0, "userxattr,lowerdir="+lower+":"+empty); err != nil {
		return "", fmt.Errorf("mount an overlay: %w", err)
	}
	return merged, nil
}
