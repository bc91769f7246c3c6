// Package binary holds the program that becomes /init of a guest. Built with the
// tag embedguest it is the guest's role alone, embedded here: 10 MiB less to
// load, and none of what the other roles initialise. Without the tag it is the
// running binary itself, which has the guest's role too, so that a plain
// `go build` works as well.
package binary

//go:generate go build -trimpath -buildvcs=false -ldflags "-s -w $STAMP" -o banger-guest ../init
