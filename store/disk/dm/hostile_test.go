package dm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/store/disk/cow"
)

// TestRefusedLeavesNothing: whatever is wrong with the files.
func TestRefusedLeavesNothing(t *testing.T) {
	needDM(t)
	dir := workDir(t)
	origin := makeImage(t, dir)
	s := newSnapshot(t, "eeee0001", origin)
	small := filepath.Join(dir, "disk-small")
	must(t, os.WriteFile(small, make([]byte, cow.StoreBytes(imageBytes)-cow.ChunkBytes), 0o600))
	alien := filepath.Join(dir, "disk-alien")
	must(t, os.WriteFile(alien, bytes.Repeat([]byte("alien"), int(cow.StoreBytes(imageBytes))/5+1)[:cow.StoreBytes(imageBytes)], 0o600))
	for name, c := range map[string]Snapshot{
		"no id":             {ID: "", Origin: s.Origin, Store: s.Store},
		"a path for an id":  {ID: "../../x", Origin: s.Origin, Store: s.Store},
		"a small store":     {ID: s.ID, Origin: s.Origin, Store: openFile(t, small, os.O_RDWR)},
		"an alien store":    {ID: s.ID, Origin: s.Origin, Store: openFile(t, alien, os.O_RDWR)},
		"a read-only store": {ID: s.ID, Origin: s.Origin, Store: openFile(t, s.Store.Name(), os.O_RDONLY)},
		"a directory":       {ID: s.ID, Origin: openFile(t, dir, os.O_RDONLY), Store: s.Store},
		"a device":          {ID: s.ID, Origin: openFile(t, "/dev/zero", os.O_RDONLY), Store: s.Store},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if dev, err := c.Open(ctx); err == nil {
			t.Errorf("%s: opened", name)
			dev.Close()
		}
		cancel()
		wantNothing(t, s.ID)
	}
}

// TestStoreWithOtherChunks: an owner who writes into the header when it has been
// looked at gets nothing but an error.
func TestStoreWithOtherChunks(t *testing.T) {
	needDM(t)
	s := newSnapshot(t, "eeee0002", makeImage(t, workDir(t)))
	dev := openDisk(t, s)
	write(t, dev, []byte("x"), 0)
	must(t, dev.Close())
	wantNothing(t, s.ID)
	_, err := s.Store.WriteAt([]byte{32}, 12)
	must(t, err)
	must(t, s.Store.Sync())
	l, err := s.layout()
	must(t, err)
	if _, err := s.tryOpen(t.Context(), l); !errors.Is(err, cow.ErrBroken) {
		t.Errorf("got %v", err)
	}
	wantNothing(t, s.ID)
}

// TestFilesChangeWhileOpening: an owner who cuts, fills and unlinks his files while a
// device is made of them gets one of what was checked, or an error.
func TestFilesChangeWhileOpening(t *testing.T) {
	needDM(t)
	dir := workDir(t)
	origin := makeImage(t, dir)
	s := newSnapshot(t, "eeee0003", origin)
	info, err := s.Store.Stat()
	must(t, err)
	path := s.Store.Name()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			// Errors are the attacker's.
			os.Truncate(path, int64(i%3)*4096)
			s.Store.WriteAt(noise(byte(i), 64), 0)
			os.Rename(path, path+".gone")
			os.WriteFile(path, nil, 0o600)
			os.Rename(path+".gone", path)
			os.Truncate(path, info.Size())
			s.Store.WriteAt(make([]byte, 64), 0)
			time.Sleep(time.Duration(i%7) * 20 * time.Millisecond)
		}
	}()
	// Opens that are refused are fast: 40 of them may fall into one of his short rests.
	opened, tried, begin := 0, 0, time.Now()
	for ; tried < 40 || opened < 3 && time.Since(begin) < 30*time.Second; tried++ {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		dev, err := s.Open(ctx)
		cancel()
		if err != nil {
			continue
		}
		opened++
		if size, err := dev.Seek(0, io.SeekEnd); err != nil || size < imageBytes || size > diskBytes {
			t.Errorf("a disk of %d bytes, %v", size, err)
		}
		dev.Close()
	}
	close(stop)
	<-stopped
	t.Log("opened", opened, "of", tried)
	if opened == 0 {
		t.Error("nothing was tried: no file was ever left alone for long enough")
	}
	wantNothing(t, s.ID)
	if !bytes.Equal(readFile(t, origin.Name()), noise(1, imageBytes)) {
		t.Error("the image has changed")
	}
}

// TestSecondOpenWaits: for the end of the first, and not for ever.
func TestSecondOpenWaits(t *testing.T) {
	needDM(t)
	s := newSnapshot(t, "ffff0001", makeImage(t, workDir(t)))
	dev := openDisk(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Open(ctx); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v", err)
	}
	time.AfterFunc(50*time.Millisecond, func() { dev.Close() })
	must(t, openDisk(t, s).Close())
	wantNothing(t, s.ID)
}

// holderName is the part of a process that opens a disk: its arguments are the
// id, the image and the store.
const holderName = "holder"

func hold() {
	origin, err := os.Open(os.Args[2])
	if err == nil {
		var store *os.File
		if store, err = os.OpenFile(os.Args[3], os.O_RDWR, 0); err == nil {
			_, err = Snapshot{ID: os.Args[1], Origin: origin, Store: store}.Open(context.Background())
		}
	}
	fmt.Println("open", err)
	time.Sleep(time.Minute)
	os.Exit(1)
}

// TestKilledHolderLeavesNothing: a process that is killed while it has the disk
// takes it away, and one that is killed while it makes it leaves no more than the
// next one removes.
func TestKilledHolderLeavesNothing(t *testing.T) {
	needDM(t)
	origin := makeImage(t, workDir(t))
	s := newSnapshot(t, "ffff0002", origin)
	exe, err := os.Executable()
	must(t, err)
	start := func() (*exec.Cmd, io.Reader) {
		cmd := &exec.Cmd{Path: exe, Args: []string{holderName, s.ID, origin.Name(), s.Store.Name()}}
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		return cmd, out
	}
	cmd, out := start()
	line := make([]byte, 64)
	n, err := out.Read(line)
	must(t, err)
	if got := string(line[:n]); got != "open <nil>\n" {
		t.Fatalf("the holder says %q", got)
	}
	if len(leftovers(t)) == 0 {
		t.Error("the holder has nothing")
	}
	must(t, cmd.Process.Kill())
	cmd.Wait()
	wantNothing(t, s.ID)

	stray := 0
	for i := range 40 {
		cmd, _ := start()
		time.Sleep(time.Duration(i) * 3 * time.Millisecond) // anywhere in its work
		must(t, cmd.Process.Kill())
		cmd.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		if Await(ctx, s.ID) != nil {
			stray++
		}
		cancel()
		must(t, Sweep(t.Context()))
		wantNothing(t, s.ID)
	}
	t.Log("killed in the moment in which something stays:", stray)
}

// TestSweepKeepsOthers: devices in use, and those that are not banger's, whatever
// their names.
func TestSweepKeepsOthers(t *testing.T) {
	needDM(t)
	s := newSnapshot(t, "ffff0003", makeImage(t, workDir(t)))
	dev := openDisk(t, s)
	c, err := openControl()
	must(t, err)
	defer c.Close()
	_, _, err = c.do(request{command: unix.DM_DEV_CREATE, what: "create", name: "banger-lookalike", uuid: "LVM-x"})
	must(t, err)
	defer c.remove("banger-lookalike", 0)
	must(t, Sweep(t.Context()))
	if _, _, err := c.do(request{command: unix.DM_DEV_STATUS, what: "look", name: "banger-lookalike"}); err != nil {
		t.Error(err)
	}
	if _, err := status(s.ID); err != nil {
		t.Error(err)
	}
	must(t, dev.Close())
	wantNothing(t, s.ID)
}
