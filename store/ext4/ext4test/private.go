package ext4test

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// privateEnv tells a test program that its mounts are its own.
const privateEnv = "BANGER_TEST_PRIVATE_MOUNTS"

// Main is a TestMain for packages that mount: as root it runs the tests in a
// mount namespace of their own. Else another test that makes a namespace at that
// moment takes a copy of the mount with it, and what was unmounted here stays
// mounted there.
func Main(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(privateEnv) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), privateEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	}
	os.Exit(m.Run()) // no namespaces to be had here
}
