package guest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"banger/personas/guest/agent"
	"banger/personas/guest/link"
	"banger/personas/guest/modprobe"
	"banger/personas/guest/rootfs"
)

// modprobePath names the program that the kernel starts when it wants a module.
const modprobePath = "/proc/sys/kernel/modprobe"

// provideModules makes the kernel's modules loadable for the rest of the guest's
// life: by an image's modprobe, and where it has none, by this program.
func provideModules(ctx context.Context, release string, config link.BootConfig) error {
	if config.Modules == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, diskTimeout)
	defer cancel()
	if err := rootfs.MountModules(ctx, release, config.Modules); err != nil {
		return err
	}
	program, err := os.ReadFile(modprobePath)
	if err != nil {
		return err // a kernel that loads nothing by itself has no drive either
	}
	// BusyBox has one that knows no aliases, or searches all files for them.
	target, err := resolve("/", strings.TrimSpace(string(program)))
	if err == nil && filepath.Base(target) != "busybox" {
		return nil
	}
	if err := os.WriteFile(modprobePath, []byte(rootfs.Program), 0o644); err != nil {
		return fmt.Errorf("offer modules to the kernel: %w", err)
	}
	return nil
}

// wantedModule returns the name of the module that the kernel has started this
// program for.
func wantedModule(args []string) (name string, ok bool) {
	if len(args) == 4 && args[1] == "-q" && args[2] == "--" {
		return args[3], true
	}
	return "", false
}

// loadModule is the kernel's modprobe. Nobody reads what it says: it is the
// kernel, or whoever asked for something that needs the module, who tells what
// does not work.
func loadModule(name string) int {
	if err := modprobe.Load(modprobe.Dir(agent.KernelRelease()), name); err != nil {
		return 1
	}
	return 0
}
