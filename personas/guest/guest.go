// Package guest is the first process of a VM, and the agent that stays in it.
//
// The kernel starts banger's binary as /init of the initrd. What follows:
//
//	/init, PID 1                             agent
//	  mount /proc /sys /dev /run
//	  load modules
//	  dial the host, say hello,
//	    receive the boot configuration
//	  mount the root disk, switch to it
//	  network, names, keys
//	  listen on the agent's port
//	  start the agent ----------------------> say ready
//	  become the image's init,                serve execs, copies, questions
//	    or stay, as a small one of our own    until the end
//
// The agent is a process of its own in both cases, so that it is there before an
// image's init has done anything, and does not depend on what that does. Its name
// begins with '@', which tells systemd not to kill it at the end of a shutdown.
package guest

import (
	"context"
	"fmt"
	"os"

	"banger/personas/guest/rootfs"
)

// AgentName is the argv[0] under which PID 1 starts the agent.
const AgentName = "@banger-guest"

// processName is what ps shows, of PID 1 and of the agent.
const processName = "banger-guest"

// Main is the guest's role: args are those of the process, its name first;
// version is that of the binary. It returns the exit code, where PID 1 does not
// exit: it becomes the image's init, or ends the machine.
func Main(ctx context.Context, args []string, version string) int {
	switch {
	case len(args) > 0 && args[0] == AgentName:
		if err := runAgent(ctx, version); err != nil {
			report(err)
			return 1
		}
		return 0
	case os.Getpid() == 1:
		if err := rootfs.CheckInitrd(); err != nil {
			report(err)
			return 2
		}
		first(ctx, version)
		return 1
	}
	if name, ok := wantedModule(args); ok {
		return loadModule(name)
	}
	fmt.Fprintln(os.Stderr, "banger-guest: this is the first process of a guest, and runs nowhere else")
	return 2
}

// report writes an error to the guest's console.
func report(err error) {
	fmt.Fprintf(os.Stderr, "banger-guest: %v\r\n", err)
}
