package halt

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOnDisk(t *testing.T) {
	const mountinfo = `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:5 / /dev rw,nosuid - devtmpfs devtmpfs rw
24 22 0:21 / /proc rw - proc proc rw
25 22 254:16 / /data rw,relatime - ext4 /dev/vdb rw
26 25 254:32 / /data/with\040space\134 rw master:2 propagate_from:1 - xfs /dev/vdc rw
27 22 0:40 / /overlay rw - overlay overlay rw,lowerdir=/a - b
broken line
28 22 0:41 / /run rw - tmpfs tmpfs rw
`
	want := []string{"/", "/data", `/data/with space\`, "/overlay"}
	if got := onDisk(strings.NewReader(mountinfo)); !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{`plain`: "plain", `a\040b`: "a b", `\134`: `\`, `\9`: `\9`, `\`: `\`, `\777x`: `\777x`, `\012`: "\n"} {
		if got := unescape(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestListens(t *testing.T) {
	cmd := exec.Command("sh", "-c", "trap : USR1; echo ready; read line")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("needs a shell: %v", err)
	}
	defer cmd.Wait()
	defer in.Close()
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	if !listens(cmd.Process.Pid, unix.SIGUSR1) {
		t.Error("a signal that is caught")
	}
	if listens(cmd.Process.Pid, unix.SIGUSR2) {
		t.Error("a signal that is not caught")
	}
}

func TestDropEnded(t *testing.T) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	list := dropEnded([]unix.PollFd{{Fd: int32(fds[0]), Revents: unix.POLLIN}, {Fd: int32(fds[1])}})
	if len(list) != 1 || list[0].Fd != int32(fds[1]) {
		t.Fatalf("kept %+v", list)
	}
	if err := unix.Close(fds[0]); err != unix.EBADF {
		t.Errorf("the process that has ended is still open: %v", err)
	}
}
