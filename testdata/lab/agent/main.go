// Agent runs commands on a lab host for the machine that the host is on. As the
// first process of an emulated machine it makes the way to the disk first, and
// becomes what the disk starts with.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"banger/testdata/lab/talk"
)

func main() {
	err := run()
	if os.Getpid() == 1 {
		fmt.Println("agent:", err)
		time.Sleep(time.Hour) // a first process that ends is a panic of the kernel
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}

func run() error {
	if os.Getpid() == 1 {
		return boot()
	}
	if len(os.Args) != 2 {
		return errors.New("usage: agent PORT")
	}
	st, err := os.Stat(os.Args[1])
	if err != nil {
		return err
	}
	if st.Mode()&os.ModeSocket != 0 {
		conn, err := net.Dial("unix", os.Args[1])
		if err != nil {
			return err
		}
		defer conn.Close()
		return talk.Serve(conn)
	}
	port, err := os.OpenFile(os.Args[1], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer port.Close()
	return talk.Serve(patient{port})
}

// patient reads a serial port, which is at its end whenever nobody is connected
// to the other side, and is not when somebody is again.
type patient struct{ io.ReadWriter }

// Read implements io.Reader.
func (p patient) Read(b []byte) (int, error) {
	for {
		n, err := p.ReadWriter.Read(b)
		if n > 0 || err != nil && err != io.EOF {
			return n, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}
