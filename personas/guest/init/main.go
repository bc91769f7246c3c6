// Init is the guest's role as a program of its own. It is a quarter of the whole
// binary, which carries it as what becomes /init of a guest: see package binary.
package main

import (
	"context"
	"os"

	"banger/personas"
	"banger/personas/guest"
)

func main() { os.Exit(guest.Main(context.Background(), os.Args, personas.Version)) }
