package daemon

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"banger/personas/daemon/catalog"
	"banger/store"
)

// reseal notes in the catalogue that the file of an image is the same as ever,
// though its inode or its times are not, as after a backup was put back: to find
// that out takes reading all of it, which is done once. What is wrong with the file
// is for the making of the disk to say.
func (d *Daemon) reseal(ctx context.Context, img catalog.Image) catalog.Image {
	if img.Seal == (store.Seal{}) {
		return img
	}
	f, err := os.OpenFile(img.Path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe may have taken its place
	if err != nil {
		return img
	}
	defer f.Close()
	seal, err := img.Seal.Check(ctx, f)
	if err != nil || seal == img.Seal {
		return img
	}
	img.Seal = seal
	err = d.images.Update(img.Name, func(i catalog.Image) catalog.Image { i.Seal = seal; return i })
	if err != nil {
		d.log.Warn("note that an image is unchanged, ignoring", "image", img.Name, "error", err)
	}
	return img
}
