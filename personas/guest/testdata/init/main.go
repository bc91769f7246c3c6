// Init is the guest's role alone, for tests that boot it.
package main

import (
	"context"
	"os"

	"banger/personas/guest"
)

func main() { os.Exit(guest.Main(context.Background(), os.Args, "test")) }
