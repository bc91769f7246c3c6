package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"

	"banger/fc"
	"banger/fc/fctest"
	"banger/personas/guest/link"
	"banger/personas/guest/link/frame"
)

// runVMM is the role: it serves the API until the guest is asked to shut down.
func runVMM(args []string) int {
	fs := flag.NewFlagSet("banger-vmm", flag.ContinueOnError)
	sock, id := fs.String("api-sock", "", ""), fs.String("id", "", "")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	l, err := net.Listen("unix", *sock)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	vmm := &fctest.VMM{
		ID: *id,
		OnStart: func(_ context.Context, config fc.VMConfig) error {
			go func() { complain(hello(config.Vsock.UDSPath)) }()
			return nil
		},
		Guest: func(_ uint32, conn net.Conn) { complain(answer(conn)) },
	}
	if err := vmm.Serve(context.Background(), l); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// complain tells on the console what went wrong.
func complain(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickvmm:", err)
	}
}

// hello is a guest that boots in no time.
func hello(uds string) error {
	conn, err := net.Dial("unix", fmt.Sprintf("%s_%d", uds, link.HelloPort))
	if err != nil {
		return err
	}
	defer conn.Close()
	w := frame.NewWriter(conn)
	if err := w.JSON(frame.Hello, link.Hello{Version: "quickvmm", KernelRelease: "none", BootID: "none", UptimeNanos: 1}); err != nil {
		return err
	}
	var config link.BootConfig
	if err := frame.NewReader(conn).Expect(frame.Boot, &config); err != nil {
		return err
	}
	return w.JSON(frame.Ready, link.Ready{Init: "banger", UptimeNanos: 1})
}

// answer is the agent: every command succeeds at once, and a shutdown is the
// end of the VMM.
func answer(conn net.Conn) error {
	defer conn.Close()
	t, payload, err := frame.NewReader(conn).Next()
	if err != nil {
		return err
	}
	if t != frame.Request {
		return frame.Unexpected(t)
	}
	req, err := link.DecodeRequest(payload)
	if err != nil {
		return err
	}
	w := frame.NewWriter(conn)
	switch {
	case req.Exec != nil:
		if err := w.JSON(frame.Started, link.StartedReply{PID: 1}); err != nil {
			return err
		}
		return w.JSON(frame.Exit, link.ExitReply{})
	case req.Shutdown != nil:
		complain(w.JSON(frame.Answer, link.Nothing{}))
		os.Exit(0)
	}
	return w.Fail(fmt.Errorf("this guest only runs commands and shuts down"))
}
