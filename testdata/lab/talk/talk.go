// Package talk is what the machine and the agent of a lab host say to each
// other, and both sides of the talk. It runs over one stream that knows no
// connections: a socket, or a virtio serial port.
//
//	machine                                 agent
//	hello nonce            ------------->
//	                       <-------------   hello nonce, boot id
//	start 1, command       ------------->
//	input 1, bytes, end    ------------->
//	resize 1 | signal 1    ------------->
//	                       <-------------   output 1, which, bytes
//	                       <-------------   exit 1, code or error
//
// A message is a line of JSON. Commands run side by side, each under a number
// that the machine chose. A serial port may begin in the middle of what was
// said before: both sides skip what comes before a hello.
package talk

import (
	"encoding/json"
	"io"
	"sync"
)

// Command is a program to run on the lab host.
type Command struct {
	User string   // by name
	Args []string // looked for in PATH where it has no slash
	Env  []string `json:",omitempty"` // beyond what a login has
	Dir  string   `json:",omitempty"` // the user's home if empty
	// Terminal, where it is not nil, is the size of the terminal that the
	// program gets for all three of its streams.
	Terminal *Size `json:",omitempty"`
}

// Size is that of a terminal.
type Size struct{ Rows, Columns uint16 }

// message is one line. Besides ID exactly one field is set.
type message struct {
	ID     uint64   `json:",omitempty"`
	Hello  *hello   `json:",omitempty"`
	Start  *Command `json:",omitempty"`
	Input  *input   `json:",omitempty"`
	Resize *Size    `json:",omitempty"`
	Signal int      `json:",omitempty"`
	Output *output  `json:",omitempty"`
	Exit   *exit    `json:",omitempty"`
}

type hello struct {
	Nonce  string
	BootID string `json:",omitempty"`
}

type input struct {
	Data []byte `json:",omitempty"`
	End  bool   `json:",omitempty"`
}

type output struct {
	Stderr bool `json:",omitempty"`
	Data   []byte
}

// exit tells the end of a command: of one that could not be started by Error.
type exit struct {
	Code  int
	Error string `json:",omitempty"`
}

// chunk is the most bytes of a stream that one message carries.
const chunk = 32 << 10

// maxLine bounds a message. The command line of one must fit.
const maxLine = 1 << 20

// sender writes messages whole, from many goroutines.
type sender struct {
	// mu is for the writing itself: a line is never cut by another.
	mu sync.Mutex
	w  io.Writer
}

func (s *sender) send(m message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err = s.w.Write(append(b, '\n'))
	return err
}
