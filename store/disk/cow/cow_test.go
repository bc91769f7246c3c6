package cow_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"banger/store/disk/cow"
)

// TestStoreBytes: one byte less of image never needs more, and each area costs a
// chunk. That these sizes are enough, and that less is not, only the kernel can
// tell: package dm asks it.
func TestStoreBytes(t *testing.T) {
	const chunk = cow.ChunkBytes
	for _, c := range []struct{ chunks, want int64 }{
		{1, 3},
		{255, 257},
		{256, 259}, // the area is full: the next one's metadata
		{257, 260},
		{511, 514},
		{512, 516},
		{262144, 2 + 262144 + 1024},      // 1 GiB: 4 MiB more
		{1 << 28, 2 + 1<<28 + 1<<28/256}, // 1 TiB
	} {
		if got := cow.StoreBytes(c.chunks * chunk); got != c.want*chunk {
			t.Errorf("%d chunks: got a store of %d, want %d", c.chunks, got/chunk, c.want)
		}
	}
}

func TestPlan(t *testing.T) {
	const origin = 256 * cow.ChunkBytes
	const store = 259 * cow.ChunkBytes
	for name, c := range map[string]struct {
		origin, file int64
		want         cow.Layout
	}{
		"no more than the image": {origin, store, cow.Layout{OriginBytes: origin, StoreBytes: store}},
		"a tail":                 {origin, store + 8192, cow.Layout{OriginBytes: origin, StoreBytes: store, TailBytes: 8192}},
		"one sector too little":  {origin, store - 512, cow.Layout{}},
		"one sector too much":    {origin, store + 512, cow.Layout{}},
		"no image":               {0, store, cow.Layout{}},
		"half a chunk of image":  {origin + 2048, store + 4096, cow.Layout{}},
		"an image below nothing": {-origin, store, cow.Layout{}},
		"no file":                {origin, 0, cow.Layout{}},
		"an image without end":   {1<<63 - 4096, 1<<63 - 4096, cow.Layout{}},
		"a file without end":     {origin, 1<<63 - 4096, cow.Layout{}},
	} {
		got, err := cow.Plan(c.origin, c.file)
		if got != c.want || (err == nil) != (c.want != cow.Layout{}) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
		if err == nil && (got.FileBytes() != c.file || got.DiskBytes() < c.origin) {
			t.Errorf("%s: got a file of %d and a disk of %d", name, got.FileBytes(), got.DiskBytes())
		}
	}
}

func TestCheck(t *testing.T) {
	header := func(words ...uint32) []byte {
		var b []byte
		for _, w := range words {
			b = binary.LittleEndian.AppendUint32(b, w)
		}
		return b
	}
	for name, c := range map[string]struct {
		header []byte
		want   error
	}{
		"new":           {header(0, 0, 0, 0), nil},
		"whole":         {header(0x70416e53, 1, 1, 8), nil},
		"given up":      {header(0x70416e53, 0, 1, 8), cow.ErrBroken},
		"other chunks":  {header(0x70416e53, 1, 1, 1<<30), cow.ErrBroken},
		"other version": {header(0x70416e53, 1, 2, 8), cow.ErrBroken},
		"something":     {header(0xef53ef53, 1, 1, 8), cow.ErrBroken},
		"short":         {header(0x70416e53, 1), io.EOF},
	} {
		if err := cow.Check(bytes.NewReader(c.header)); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
