// Banger runs development sandboxes on Firecracker microVMs. See the README.
package main

import (
	"context"
	"os"

	"banger/fc/jail"
	"banger/personas"
	"banger/personas/checkup"
	"banger/personas/cli"
	"banger/personas/daemon"
	"banger/personas/guest"
	"banger/personas/helper"
	"banger/personas/vmm"
)

// roles is all that this binary can be; the first is what it is by default.
// The guest's has three names: for people, for the kernel that starts it out of
// an initrd, and for its agent beside an image's own init.
var roles = []personas.Role{
	{Name: "banger", Main: runCLI},
	{Name: "bangerd", Main: daemon.Main},
	{Name: "banger-helper", Main: helper.Main},
	{Name: "banger-vmm", Main: runVMM},
	{Name: "banger-guest", Main: runGuest},
	{Name: "init", Main: runGuest},
	{Name: guest.AgentName, Main: runGuest},
	{Name: jail.StageName, Main: jail.Stage},
}

func main() {
	role, args := personas.Pick(roles, os.Args)
	os.Exit(role.Main(args))
}

func runCLI(args []string) int {
	return cli.Main(context.Background(), args, cli.Config{Scope: checkup.Scope, Host: checkup.Host})
}

func runVMM(args []string) int {
	return vmm.Main(context.Background(), args)
}

func runGuest([]string) int {
	return guest.Main(context.Background(), os.Args, personas.Version)
}
