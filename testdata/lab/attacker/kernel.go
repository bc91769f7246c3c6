package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"

	"banger/ops"
)

// kernel is the content of what passes for a kernel and an initrd, and digest its name.
const kernel = "a kernel of the attacker's"

var digest = digestOf(kernel)

func digestOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// arm gives the helper the kernel.
func (a *attacker) arm() error {
	path := filepath.Join(a.dir, "kernel")
	if err := os.WriteFile(path, []byte(kernel), 0o600); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, _, err = ops.KernelPut.Call(context.Background(), a.client, ops.KernelPutArgs{Digest: digest}, f)
	return err
}

// diskBytes is the size of an attacker's disk.
const diskBytes = 1 << 20

// reserve reserves a VM, until release is called.
func (a *attacker) reserve(ctx context.Context) (vm ops.VMReserveReply, release func() error, err error) {
	vm, _, err = ops.VMReserve.Call(ctx, a.client, ops.None{})
	return vm, func() error {
		_, _, err := ops.VMRelease.Call(ctx, a.client, ops.HandleArgs{Handle: vm.Handle})
		return err
	}, err
}

// disk makes a file that may be a disk, with a name of its own.
func (a *attacker) disk(pattern string) (*os.File, error) {
	f, err := os.CreateTemp(a.dir, pattern)
	if err == nil {
		err = f.Truncate(diskBytes)
	}
	return f, err
}

// startArgs ask for a start of a VM on the attacker's kernel.
func startArgs(handle string) ops.VMStartArgs {
	return ops.VMStartArgs{Handle: handle, Kernel: digest, Initrd: digest, VMM: ops.QEMU, Net: ops.NetInternet, MemMiB: 64, CPUs: 1}
}
