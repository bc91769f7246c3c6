// Quickvmm is banger with a VMM that answers at once in the place of
// banger-vmm: the program in the folder vmm, built as this one's path and "-vmm".
// All else is the real thing, so that what a VM costs with it is what banger
// itself costs.
package main

import (
	"context"
	"fmt"
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
		{Name: "banger-helper", Main: func(args []string) int {
			own, err := os.Executable()
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			return helper.MainWith(own+"-vmm", args)
		}},
		{Name: jail.StageName, Main: jail.Stage},
	}, os.Args)
	os.Exit(role.Main(args))
}
