package personas

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func TestPick(t *testing.T) {
	roles := []Role{{Name: "banger"}, {Name: "bangerd"}, {Name: "banger-helper"}}
	for _, c := range []struct {
		argv string
		list []string
		want string
		args []string
	}{
		{"no arguments at all is the CLI", nil, "banger", nil},
		{"exact name", []string{"bangerd", "-x"}, "bangerd", []string{"-x"}},
		{"path", []string{"/usr/local/bin/banger-helper"}, "banger-helper", nil},
		{"first argument", []string{"./banger", "bangerd", "-x"}, "bangerd", []string{"-x"}},
		{"unknown name is the CLI", []string{"/tmp/xbangerd", "vm", "list"}, "banger", []string{"vm", "list"}},
		{"name within a longer name does not count", []string{"banger-helper.old"}, "banger", nil},
		{"the name comes before the argument", []string{"bangerd", "banger-helper"}, "bangerd", []string{"banger-helper"}},
	} {
		r, args := Pick(roles, c.list)
		if r.Name != c.want || !slices.Equal(args, c.args) {
			t.Errorf("%s: got %s %q, want %s %q", c.argv, r.Name, args, c.want, c.args)
		}
	}
}

func TestSetName(t *testing.T) {
	before, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Skipf("needs /proc: %v", err)
	}
	defer SetName(strings.TrimSpace(string(before)))
	done := make(chan struct{})
	go func() { // whatever thread it is called on
		defer close(done)
		runtime.LockOSThread()
		SetName("banger-helper")
	}()
	<-done
	if got, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", os.Getpid())); err != nil || string(got) != "banger-helper\n" {
		t.Errorf("the process is called %q, %v", got, err)
	}
}

func TestSetThreadName(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := os.ReadFile("/proc/thread-self/comm")
	if err != nil {
		t.Fatal(err)
	}
	defer setThreadName(strings.TrimSpace(string(before)))
	setThreadName("banger-vmm")
	if got, err := os.ReadFile("/proc/thread-self/comm"); err != nil || string(got) != "banger-vmm\n" {
		t.Errorf("the thread is called %q, %v", got, err)
	}
}
