// Package initd is a small init for images that bring none: it is PID 1, and as
// such the parent of every process that has lost its own.
//
// It has three duties: reap what ends, keep the agent running, and end the guest
// when it is told to. Signals mean what they mean to BusyBox's init: SIGTERM,
// SIGUSR1, SIGUSR2 and SIGPWR end the guest, and so does SIGINT, which is
// Ctrl-Alt-Del. All others are ignored. An end is always a restart of the
// machine, which ends its VMM.
package initd

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// restartDelay is the least time between two starts of the agent.
const restartDelay = time.Second

// Init is PID 1.
type Init struct {
	// Agent starts the agent and returns its pid.
	Agent func() (pid int, err error)
	// End ends the guest. It is called once, and Run returns what it returns.
	End func() error
	// Report takes what goes wrong with the agent.
	Report func(error)
}

// Run starts the agent and serves until a signal says to end. An agent that
// cannot be started the first time is an error; later it is tried again.
func (i *Init) Run() error {
	// All signals: for one that is not taken, Go's runtime would exit, and the
	// exit of PID 1 is a kernel panic. They stay taken, for the end too.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	// Without an error to be seen when it is refused, as in a container, where
	// Ctrl-Alt-Del is not ours.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)

	pid, err := i.Agent()
	if err != nil {
		return err
	}
	restart := time.NewTimer(0)
	restart.Stop()
	for {
		select {
		case sig := <-signals:
			if ends(sig) {
				return i.End()
			}
			if sig == syscall.SIGCHLD && reap(pid) {
				restart.Reset(restartDelay)
			}
		case <-restart.C:
			var err error
			if pid, err = i.Agent(); err != nil {
				i.Report(err)
				restart.Reset(restartDelay)
			}
		}
	}
}

// ends reports whether sig ends the guest.
func ends(sig os.Signal) bool {
	switch sig {
	case syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPWR:
		return true
	}
	return false
}

// reap takes in all processes that have ended, and reports whether the agent is
// among them.
func reap(agent int) (gone bool) {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case err == unix.EINTR:
		case err != nil || pid <= 0:
			return gone
		case pid == agent:
			gone = true
		}
	}
}
