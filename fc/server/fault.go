package server

import (
	"errors"
	"fmt"

	"banger/fc"
)

// The refusals in Firecracker's own words: there are clients that read them. This is why
// they begin with a capital and end with a full stop.
var (
	errNotAfterBoot  = errors.New("The requested operation is not supported after starting the microVM.")
	errNotBeforeBoot = errors.New("The requested operation is not supported before starting the microVM.")
	errEmptyPut      = errors.New("Empty PUT request.")
	errEmptyPatch    = errors.New("Empty PATCH request.")
	errGetWithBody   = errors.New("GET request cannot have a body.")
	errEmptyID       = errors.New("The ID cannot be empty.")
	errInvalidID     = errors.New("API Resource IDs can only contain alphanumeric characters and underscores.")
	errIDMismatch    = errors.New("The id from the path does not match the id from the body!")
	errNoBalloon     = errors.New("Balloon config error: No balloon device found.")
	errNoKernel      = errors.New("Start microvm error: Cannot start microvm without kernel configuration.")
	errLoadTooLate   = errors.New("Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.")
)

const (
	noDevice      = "Failed perform action on device: Device not found"
	statsDisabled = "Balloon: Received stats query when stats are disabled."
)

func unknownPath(method, path string) error {
	return fmt.Errorf("Invalid request method and/or path: %s %s.", method, path)
}

func invalidBody(err error) error {
	return fmt.Errorf("An error occurred when deserializing the json body of a request: %w.", err)
}

// opening is how Firecracker begins a fault in the doing of r.
func opening(r fc.Request) string {
	switch r := r.(type) {
	case fc.Balloon:
		return "Balloon config error"
	case fc.BalloonUpdate, fc.BalloonStatsUpdate:
		return "Balloon update error"
	case fc.BootSource:
		return "Boot source error"
	case fc.Drive:
		return "Drive config error"
	case fc.DriveUpdate:
		return "Drive config error: Unable to patch the block device"
	case fc.Entropy:
		return "Entropy config error"
	case fc.Logger:
		return "Logger error"
	case fc.MachineConfig, fc.MachineUpdate:
		return "Machine config error"
	case fc.Metrics:
		return "Metrics error: Cannot initialize the metrics system due to bad user input"
	case fc.NetworkInterface:
		return "Network config error"
	case fc.NetworkUpdate:
		return "Network config error: Unable to update the net device"
	case fc.SnapshotCreate:
		return "Create snapshot error"
	case fc.SnapshotLoad:
		return "Load snapshot error"
	case fc.Vsock:
		return "Vsock config error"
	case fc.Action:
		if r.Type == fc.InstanceStart {
			return "Start microvm error"
		}
	}
	return "Internal VMM error"
}

// failed is the fault of r that err caused.
func failed(r fc.Request, err error) error {
	if u, ok := errors.AsType[Unsupported](err); ok {
		return u
	}
	return fmt.Errorf("%s: %w", opening(r), err)
}
