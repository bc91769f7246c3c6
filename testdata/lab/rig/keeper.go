package rig

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// keeper is a process that keeps a host: see keep.
type keeper struct {
	cmd    *exec.Cmd
	orders io.WriteCloser // the host ends when it is closed
	done   chan struct{}  // closed when the keeper has ended
	said   string         // its last words, once done is closed
}

func startKeeper(w world) (*keeper, error) {
	spec, err := json.Marshal(w)
	if err != nil {
		return nil, err
	}
	k := &keeper{cmd: exec.Command("/proc/self/exe"), done: make(chan struct{})}
	k.cmd.Args = []string{keeperName, string(spec)}
	k.cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if k.orders, err = k.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	words, err := k.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := k.cmd.Start(); err != nil {
		return nil, err
	}
	r := bufio.NewReader(words)
	line, err := r.ReadString('\n')
	go func() {
		rest, _ := io.ReadAll(r)
		k.said = line + string(rest)
		close(k.done)
	}()
	if err != nil || line != started+"\n" {
		return nil, errors.Join(fmt.Errorf("start keeper: %q", line), k.close())
	}
	return k, nil
}

// close ends the host and waits until it is cleared away.
func (k *keeper) close() error {
	k.orders.Close()
	<-k.done
	if err := k.cmd.Wait(); err != nil {
		return fmt.Errorf("keeper of the lab host: %w: %s", err, k.said)
	}
	return nil
}
