package guest

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/personas/guest/link"
)

// rndAddEntropy is RNDADDENTROPY, _IOW('R', 3, int[2]).
const rndAddEntropy = 0x40085203

// setIdentity sets what the kernel itself keeps: name, time, entropy. It is done
// before the root disk is mounted, whose mount time is then right.
func setIdentity(config link.BootConfig) (warnings []error) {
	if config.Hostname != "" {
		if err := unix.Sethostname([]byte(config.Hostname)); err != nil {
			warnings = append(warnings, fmt.Errorf("set hostname: %w", err))
		}
	}
	if config.TimeUnixNano != 0 {
		ts := unix.NsecToTimespec(config.TimeUnixNano)
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
			warnings = append(warnings, fmt.Errorf("set clock: %w", err))
		}
	}
	if len(config.Entropy) > 0 {
		if err := addEntropy(config.Entropy); err != nil {
			warnings = append(warnings, err)
		}
	}
	return warnings
}

// addEntropy credits the seed to the kernel's generator, all of it: the host's
// own generator has made it.
func addEntropy(seed []byte) error {
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// struct rand_pool_info { int entropy_count; int buf_size; __u32 buf[]; }
	info := binary.NativeEndian.AppendUint32(nil, uint32(len(seed)*8))
	info = binary.NativeEndian.AppendUint32(info, uint32(len(seed)))
	info = append(info, seed...)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndAddEntropy, uintptr(unsafe.Pointer(&info[0])))
	if errno != 0 {
		return fmt.Errorf("seed random numbers: %w", errno)
	}
	return nil
}
