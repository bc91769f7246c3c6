package agent

import (
	"errors"
	"fmt"
	"os"

	"banger/personas/guest/link"
	"banger/personas/guest/link/frame"
)

// streams are the ends of a command's standard files: the child's, which are
// closed here once it runs, and ours.
type streams struct {
	child [3]*os.File
	// stdin is ours to write to. Nil for a command without input.
	stdin *os.File
	// outputs are ours to read from.
	outputs []output
	// tty is the terminal's master, and nil without one. It is stdin and the
	// one output as well.
	tty *os.File
}

// An output is one file that the command writes to, and the frames it becomes.
type output struct {
	from *os.File
	as   frame.Type
}

// openStreams opens what req asks for. The caller owes closeChild and close.
func (a *Agent) openStreams(req *link.ExecRequest, who identity) (*streams, error) {
	s := new(streams)
	var err error
	switch {
	case req.TTY:
		err = s.openTerminal(req.Size, who)
	case req.Detach:
		err = s.openConsole(a.config.Console)
	default:
		err = s.openPipes(req.Stdin)
	}
	if err != nil {
		s.closeChild()
		s.close()
		return nil, fmt.Errorf("open standard files: %w", err)
	}
	return s, nil
}

func (s *streams) openTerminal(size link.WinSize, who identity) error {
	master, slave, err := openTerminal(int(who.uid))
	if err != nil {
		return err
	}
	s.tty, s.stdin = master, master
	s.outputs = []output{{master, frame.Stdout}}
	s.child = [3]*os.File{slave, slave, slave}
	if size == (link.WinSize{}) {
		return nil
	}
	return resize(master, size)
}

func (s *streams) openConsole(console string) error {
	if console == "" {
		console = os.DevNull
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	s.child[0] = null
	out, err := os.OpenFile(console, os.O_WRONLY|noCTTY, 0)
	if err != nil {
		return err
	}
	s.child[1], s.child[2] = out, out
	return nil
}

func (s *streams) openPipes(stdin bool) (err error) {
	if stdin {
		s.child[0], s.stdin, err = os.Pipe()
	} else {
		s.child[0], err = os.Open(os.DevNull)
	}
	if err != nil {
		return err
	}
	for i, as := range []frame.Type{frame.Stdout, frame.Stderr} {
		from, to, err := os.Pipe()
		if err != nil {
			return err
		}
		s.child[i+1] = to
		s.outputs = append(s.outputs, output{from, as})
	}
	return nil
}

// closeChild closes the ends that the command has now.
func (s *streams) closeChild() {
	for _, f := range s.child {
		if f != nil {
			_ = f.Close() // again, where one file stands for more than one
		}
	}
}

// close closes our ends.
func (s *streams) close() {
	for _, o := range s.outputs {
		_ = o.from.Close()
	}
	if s.stdin != nil {
		_ = s.stdin.Close()
	}
}

// endInput tells the command that there is no more input.
func (s *streams) endInput() error {
	if s.tty != nil {
		const endOfTransmission = 0x04 // what Ctrl-D types
		_, err := s.tty.Write([]byte{endOfTransmission})
		return err
	}
	err := s.stdin.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
