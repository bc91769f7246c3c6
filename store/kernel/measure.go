package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"banger/store/kernel/decompress"
)

// identify sets the digest, while all modules are there.
func (i *Info) identify(ctx context.Context, root *os.Root) error {
	sum := sha256.New()
	files := []string{VmlinuxFile}
	for _, list := range [][]string{i.Modules.Boot, i.Modules.OnDemand, i.Modules.Extra} {
		for _, p := range list {
			files = append(files, path.Join(ModulesDir, p))
		}
	}
	for _, name := range files {
		if err := addFile(ctx, root, name, sum); err != nil {
			return err
		}
	}
	i.Digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	return nil
}

// weigh sets the size.
func (i *Info) weigh(root *os.Root) error {
	return fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		stat, err := entry.Info()
		if err == nil {
			i.SizeBytes += stat.Size()
		}
		return err
	})
}

// addFile adds name, size and content of a file to a digest, so that no two lists
// of files give the same bytes.
func addFile(ctx context.Context, root *os.Root, name string, sum io.Writer) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return err
	}
	fmt.Fprintf(sum, "%s\x00%d\x00", name, stat.Size())
	_, err = io.Copy(sum, decompress.WithContext(ctx, f))
	return err
}
