package vm

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"banger/personas/api"
	"banger/store"
)

// openFile opens a disk or an image. What has taken its place meanwhile, such as
// a pipe, holds nobody up.
func openFile(path string, mode int) (*os.File, error) {
	f, err := os.OpenFile(path, mode|unix.O_NONBLOCK, 0) // which means nothing to a file
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return f, nil
}

// openImage opens the image of v, and makes sure that it is what the VM was made
// from: what was written over it, or has taken its place, would be another base
// below everything that the guest has written.
func openImage(ctx context.Context, v *VM) (*os.File, error) {
	image := v.record().Image
	f, err := openFile(image.Path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	seal := image.Seal
	if seal == (store.Seal{}) { // recorded by a banger that made none
		seal, err = store.SealFile(ctx, f)
	} else {
		seal, err = seal.Check(ctx, f)
	}
	if errors.Is(err, store.ErrChanged) {
		err = &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("image %s is not what was imported: %v", image.Name, err),
			HintText: "put the file back from a backup; else the image and the VMs that share it have to be deleted, and the image imported again"}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	if seal != image.Seal {
		v.change(func() { v.rec.Image.Seal = seal }) // on disk with the next state
	}
	return f, nil
}

// openDisks opens the drives of v for the helper. The caller closes them.
func openDisks(ctx context.Context, v *VM, disks []disk) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
		}
	}()
	for _, d := range disks {
		opened, err := openDisk(ctx, v, d)
		files = append(files, opened...)
		if err != nil {
			return files, fmt.Errorf("open disk: %w", err)
		}
	}
	return files, nil
}

// openDisk opens what a drive is made of: a file, or an image and the store over it.
// What it has opened comes beside an error too.
func openDisk(ctx context.Context, v *VM, d disk) (files []*os.File, err error) {
	if d.name == imageDrive || d.snapshot {
		image, err := openImage(ctx, v)
		if err != nil {
			return nil, err
		}
		files = append(files, image)
	}
	if d.name == imageDrive {
		return files, nil
	}
	mode := os.O_RDWR
	if d.readOnly {
		mode = os.O_RDONLY
	}
	f, err := openFile(d.path, mode)
	if err != nil {
		return files, err
	}
	files = append(files, f)
	if d.snapshot {
		err = checkStore(v, f)
	}
	return files, err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
