package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"banger/ops"
)

// Bounds of swap: it goes on until there were as many exchanges, and starts that came
// to pass, which takes a second, or minutes on an emulated host.
const (
	minSwaps  = 10_000
	minStarts = 5
	maxSwap   = 4 * time.Minute
)

// swap exchanges a file for what an owner may not have, truncates it and writes to it,
// while it is given as a disk, and as a kernel.
func (a *attacker) swap() (err error) {
	ctx := context.Background()
	vm, release, err := a.reserve(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	disk, err := a.disk("disk")
	if err != nil {
		return err
	}
	disk.Close()
	others, err := a.others(disk.Name())
	if err != nil {
		return err
	}

	var swaps atomic.Int64
	var swapping sync.WaitGroup
	done := make(chan struct{})
	swapping.Go(func() {
		for {
			for _, other := range others {
				select {
				case <-done:
					return
				default:
				}
				if unix.Renameat2(unix.AT_FDCWD, disk.Name(), unix.AT_FDCWD, other, unix.RENAME_EXCHANGE) == nil {
					swaps.Add(1)
				}
				switch swaps.Load() % 7 {
				case 0:
					a.scribble(disk.Name(), 0, "")
				case 1:
					a.scribble(disk.Name(), diskBytes, "written")
				case 2:
					a.scribble(disk.Name(), 4096, "")
				}
			}
		}
	})
	defer swapping.Wait()
	defer close(done)

	for begin := time.Now(); swaps.Load() < minSwaps || a.count["VMStart"][accepted] < minStarts; {
		if time.Since(begin) > maxSwap {
			return fmt.Errorf("%d exchanges and %d starts in %v: want %d and %d", swaps.Load(), a.count["VMStart"][accepted], maxSwap, minSwaps, minStarts)
		}
		f, err := os.OpenFile(disk.Name(), os.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			continue // it is /etc/shadow right now, or a folder
		}
		_, _, err = ops.KernelPut.Call(ctx, a.client, ops.KernelPutArgs{Digest: digestOf("nobody's")}, f)
		a.answered("KernelPut", err)
		if a.count["VMStart"][accepted] < minStarts {
			_, files, err := ops.VMStart.Call(ctx, a.client, startArgs(vm.Handle), f)
			closeAll(files)
			a.answered("VMStart", err)
			_, _, err = ops.VMStop.Call(ctx, a.client, ops.HandleArgs{Handle: vm.Handle})
			a.answered("VMStop", err)
		}
		f.Close()
	}
	a.count["exchanges"] = map[string]int{"done": int(swaps.Load())}
	return nil
}

// scribble changes the size of a file and writes to it, if it is one at this moment.
func (a *attacker) scribble(path string, size int64, text string) {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	f.Truncate(size)
	f.WriteString(text)
}

// others makes what a disk is exchanged for.
func (a *attacker) others(disk string) ([]string, error) {
	at := func(name string) string { return filepath.Join(a.dir, name) }
	if err := os.WriteFile(at("other"), make([]byte, 4096), 0o600); err != nil {
		return nil, err
	}
	if err := os.Link(at("other"), at("link")); err != nil {
		return nil, err
	}
	list := []string{at("other"), at("folder"), at("fifo")}
	if err := errors.Join(os.Mkdir(at("folder"), 0o700), unix.Mkfifo(at("fifo"), 0o600)); err != nil {
		return nil, err
	}
	for i, target := range []string{"/etc/shadow", "/etc/passwd", "/dev/vda", "/dev/loop0", "/dev/null", "/var/tmp/mallory", "/run/banger-helper", disk} {
		name := at(fmt.Sprint("symlink", i))
		if err := os.Symlink(target, name); err != nil {
			return nil, err
		}
		list = append(list, name)
	}
	return list, nil
}

// answered counts an answer that may be of any kind but none.
func (a *attacker) answered(op string, err error) {
	refused := (*ops.Error)(nil)
	switch {
	case err == nil:
		a.tally(op, accepted)
	case errors.As(err, &refused):
		a.tally(op, string(refused.Code))
	default:
		a.breach("%s: %v", op, err)
	}
}
