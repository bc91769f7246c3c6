// Package jail starts a virtual machine monitor in a jail and owns its process:
// it resolves the binary, builds the jail, identifies the process by a pidfd,
// waits for it, stops it and removes what it left. It is the root half of the
// room fc and must run as root; it knows nothing of Firecracker's API beyond the
// socket's name and one request.
//
// How a VMM comes to be, and what each side knows at each step:
//
//	helper (Start)                         stage (a fork of the same binary)
//	--------------                         ---------------------------------
//	fork with new pid, ipc, uts spaces --> waits for its plan on descriptor 3
//	make a fresh jail directory
//	write the record (pid, start time)
//	send the plan and descriptors      --> clone the mounts of what it was given
//	                                       leave the mount namespace
//	                                       build the root, pivot, drop rights
//	end of file: it runs           <-----  exec (descriptor 3 closes itself)
//	wait for /run/vmm/api.sock             VMM is pid 1 of its namespace
//	give the socket to its owner
//
// The first step knows nothing of the VM, and takes as long as all others of the
// stage together, so that a Starter can do it in advance. If the helper dies before
// the plan was sent the stage sees the end of file and leaves, so no VMM can run
// without a record, and Adopt finds each by it.
//
// What the VMM sees: an own root on tmpfs, read-only, with /vmm (its binary),
// /kernel, /initrd, /disk0 and so on, /dev with seven nodes at most, /proc of its
// own pid namespace and /run/vmm, which is the only place it can create files in.
// Names inside are always the same; everything that the host named came in as a
// descriptor. The kernel must be 5.12 or later (mount_setattr).
package jail
