// Quickvmm is banger with a VMM that answers at once in the place of
// banger-vmm, and in it a guest of make-believe. All else is the real thing, so
// that what a VM costs with it is what banger itself costs.
package main

import (
	"context"
	"os"

	"banger/fc/jail"
	"banger/personas"
	"banger/personas/checkup"
	"banger/personas/cli"
	"banger/personas/daemon"
	"banger/personas/helper"
)

func main() {
	role, args := personas.Pick([]personas.Role{
		{Name: "banger", Main: func(args []string) int {
			return cli.Main(context.Background(), args, cli.Config{Scope: checkup.Scope, Host: checkup.Host})
		}},
		{Name: "bangerd", Main: daemon.Main},
		{Name: "banger-helper", Main: helper.Main},
		{Name: "banger-vmm", Main: runVMM},
		{Name: jail.StageName, Main: jail.Stage},
	}, os.Args)
	os.Exit(role.Main(args))
}
