// Tar2ext4 is what `make bench` compares the import of images with: it makes an
// ext4 file out of the tar on standard input, by hcsshim.
//
//	tar2ext4 FILE < TAR
//
// It is a module of its own, so that hcsshim is none of banger's.
package main

import (
	"errors"
	"log"
	"os"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("tar2ext4: ")
	if len(os.Args) != 2 {
		log.Fatal("usage: tar2ext4 FILE < TAR")
	}
	if err := convert(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func convert(path string) error {
	out, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = tar2ext4.Convert(os.Stdin, out)
	return errors.Join(err, out.Sync(), out.Close())
}
