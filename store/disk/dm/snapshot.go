package dm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"banger/store/disk/cow"
)

// ErrBusy means that the disk of a VM that has ended is still in use.
var ErrBusy = errors.New("the disk is still in use")

// Snapshot is a disk to be made. Both files are only lent.
type Snapshot struct {
	ID string // of the VM; lower-case hex digits
	// Origin is the image, which is never written.
	Origin *os.File
	// Store is the disk's own file, open for reading and writing, as package cow
	// has laid it out.
	Store *os.File
}

// prefix begins the uuid of every device of banger's, and of no other. Its
// letters are capitals, as those of LVM and cryptsetup are.
const prefix = "BANGER-"

// Open makes the disk of s and returns its block device, open for reading and writing.
//
// The device exists for as long as it is open somewhere, and not a moment longer,
// whoever is killed: so whoever is to have it inherits the descriptor. A disk of
// the same VM that is about to go is waited for, until ctx is done.
func (s Snapshot) Open(ctx context.Context) (_ *os.File, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make snapshot of VM %s: %w", s.ID, err)
		}
	}()
	if s.ID == "" || len(s.ID) > 32 || strings.Trim(s.ID, "0123456789abcdef") != "" {
		return nil, errors.New("it has no such id")
	}
	layout, err := s.layout()
	if err != nil {
		return nil, err
	}
	if err := cow.Check(s.Store); err != nil {
		return nil, err
	}
	for {
		disk, err := s.tryOpen(ctx, layout)
		if !errors.Is(err, unix.EBUSY) {
			return disk, err
		}
		if pause(ctx) != nil {
			return nil, fmt.Errorf("%w: %v", ErrBusy, err)
		}
	}
}

func (s Snapshot) layout() (cow.Layout, error) {
	origin, err := s.Origin.Stat()
	if err != nil {
		return cow.Layout{}, err
	}
	store, err := s.Store.Stat()
	if err != nil {
		return cow.Layout{}, err
	}
	return cow.Plan(origin.Size(), store.Size())
}

// tryOpen fails with EBUSY while there is a device of this name.
func (s Snapshot) tryOpen(ctx context.Context, l cow.Layout) (*os.File, error) {
	c, err := openControl()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.lock(ctx); err != nil {
		return nil, err
	}
	if err := c.sweep(); err != nil {
		return nil, err
	}
	uuid := prefix + s.ID + "-disk0"
	head, _, err := c.do(request{command: unix.DM_DEV_CREATE, what: "create device", name: s.name(), uuid: uuid})
	if err != nil {
		return nil, err
	}
	disk, err := s.fill(ctx, c, l, head.Dev)
	if err != nil {
		err = errors.Join(err, c.remove(s.name(), 0))
	}
	return disk, err
}

func (s Snapshot) name() string { return "banger-" + s.ID + "-disk0" }

// fill gives the new device its table, and leaves it to whoever opens it.
func (s Snapshot) fill(ctx context.Context, c *control, l cow.Layout, dev uint64) (*os.File, error) {
	if err := s.load(ctx, c, l); err != nil {
		return nil, err
	}
	if _, _, err := c.do(request{command: unix.DM_DEV_SUSPEND, what: "activate table", name: s.name()}); err != nil {
		return nil, err // without a flag it means the opposite of its name
	}
	if err := c.verify(s.name()); err != nil {
		return nil, err
	}
	disk, err := os.OpenFile(fmt.Sprintf("/dev/dm-%d", unix.Minor(dev)), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open device: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(disk.Fd()), &st); err != nil || st.Rdev != dev || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		disk.Close()
		return nil, errors.Join(err, fmt.Errorf("open device: %s is another one", disk.Name()))
	}
	if err := c.remove(s.name(), unix.DM_DEFERRED_REMOVE); err != nil {
		disk.Close()
		return nil, err
	}
	return disk, nil
}

// load makes the loop devices, and of them the table, which has them open from
// then on.
func (s Snapshot) load(ctx context.Context, c *control, l cow.Layout) error {
	var numbers []string
	for _, part := range []loop{
		{file: s.Origin, bytes: l.OriginBytes, readOnly: true},
		{file: s.Store, bytes: l.StoreBytes},
		{file: s.Store, offset: l.StoreBytes, bytes: l.TailBytes},
	} {
		if part.bytes == 0 {
			continue
		}
		dev, err := part.attach(ctx)
		if err != nil {
			return err
		}
		defer dev.Close()
		n, err := number(dev)
		if err != nil {
			return err
		}
		numbers = append(numbers, n)
	}
	const sector = 512
	table := []target{{0, uint64(l.OriginBytes / sector), "snapshot",
		fmt.Sprintf("%s %s P %d", numbers[0], numbers[1], cow.ChunkSectors)}}
	if l.TailBytes > 0 {
		table = append(table, target{uint64(l.OriginBytes / sector), uint64(l.TailBytes / sector), "linear", numbers[2] + " 0"})
	}
	_, _, err := c.do(request{
		command: unix.DM_TABLE_LOAD, what: "load table", name: s.name(),
		targets: uint32(len(table)), payload: encode(table),
	})
	return err
}

// verify makes sure that the kernel sees what was meant: its owner may write into
// the store until the last moment.
func (c *control) verify(name string) error {
	lines, err := c.table(name, unix.DM_STATUS_TABLE_FLAG)
	if err != nil {
		return err
	}
	words := strings.Fields(lines[0].params)
	if len(words) < 4 || words[2] != "P" || words[3] != fmt.Sprint(cow.ChunkSectors) {
		return fmt.Errorf("%w: its table has become %q", cow.ErrBroken, lines[0].params)
	}
	lines, err = c.table(name, 0)
	if err != nil {
		return err
	}
	if _, err := parseUsage(lines[0].params); err != nil {
		return err
	}
	return nil
}
