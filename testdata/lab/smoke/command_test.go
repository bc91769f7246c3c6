package smoke_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"banger/testdata/lab/rig"
	"banger/testdata/lab/talk"
)

// commands are what a scenario can say beside what every test script can:
//
//	root|alice|mallory CMD...   runs on the host, and must end with 0 (! in front: must not)
//	exit N                      the last one's exit code was N
//	stdout|stderr REGEXP        the last one printed that (! in front: did not)
//	eventually USER CMD...      the same again and again, until it ends with 0
//	begin NAME USER CMD...      starts it, and goes on
//	flow NAME USER CMD...       starts it, and sends it bytes that it has to give back
//	flows NAME...               waits until more of these have come back
//	end NAME                    waits for what has begun, and is as if it had run now: of a
//	                            flow, the input ends, and no byte must be missing or another
//	put FILE PATH [MODE]        writes a file of the script's on the host, as root
//	catalogue                   gives bangerd, installed or root's, a kernel and an image, both "debian"
//	reboot [CMD...]             through systemd, or by a command of root's
//	crash                       a power cut
//	inventory save NAME         keeps what is on the host
//	inventory compare NAME      it is the same now
//	journal ARG...              prints the journal: journalctl's arguments
//
// A condition [firecracker] or [jailer] holds where that binary is in /srv/lab, [fit]
// where the installer takes that Firecracker, [dm] where a scenario that does not ask for a
// device mapper has one all the same. On a host with KVM, an installation for
// alice that names none is given it.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"root":       as("root"),
	"alice":      as("alice"),
	"mallory":    as("mallory"),
	"exit":       exitCode,
	"eventually": eventually,
	"begin":      begin,
	"flow":       beginFlow,
	"flows":      flows,
	"end":        end,
	"put":        put,
	"catalogue":  catalogue,
	"reboot":     reboot,
	"crash":      crash,
	"inventory":  inventory,
	"journal":    journal,
}

// patience is how long a command may take.
const patience = 5 * time.Minute

// scene returns the scenario of a script, and ends the script if its command
// has fewer arguments than it needs.
func scene(ts *testscript.TestScript, args []string, least int) *play {
	if len(args) < least {
		ts.Fatalf("want at least %d arguments", least)
	}
	return ts.Value(sceneKey{}).(*play)
}

// check ends the script where err is not nil. It is to be run once more where that is
// the emulated machine's fault.
func (s *play) check(ts *testscript.TestScript, err error) {
	if cause := context.Cause(s.host.Life()); err != nil && errors.Is(cause, rig.ErrStuck) && s.again() {
		s.skip("to be run once more: ", cause)
	}
	ts.Check(err)
}

// command returns a command of a user, who counts what runs.
func command(user string, args []string) talk.Command {
	return talk.Command{User: user, Args: args, Env: []string{"GOCOVERDIR=" + coverDir}}
}

func as(user string) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		s := scene(ts, args, 1)
		ctx, cancel := context.WithTimeout(s.host.Life(), patience)
		defer cancel()
		r, err := s.host.Run(ctx, command(user, s.withFirecracker(args)))
		s.check(ts, err)
		s.told(ts, neg, r)
	}
}

// guestHangs is what banger says of a guest that did not boot. In an emulated machine
// that happens to one of some hundred guests, in the one emulator that has SVM: with
// that, too, a processor can be stuck, see [rig.ErrStuck]. The same guests boot in
// namespaces, where nothing is run once more.
const guestHangs = "the guest was not ready within"

// told is what a command did: what comes next may look at it.
func (s *play) told(ts *testscript.TestScript, neg bool, r rig.Result) {
	s.last = r
	fmt.Fprint(ts.Stdout(), r.Stdout)
	fmt.Fprint(ts.Stderr(), r.Stderr)
	if failed := r.Code != 0; failed != neg {
		if s.emulated && strings.Contains(r.Stderr, guestHangs) && s.again() {
			s.skip("to be run once more: ", guestHangs, ", of a guest in an emulated machine:\n", s.host.Processors(), s.journal())
		}
		ts.Fatalf("exit code %d", r.Code)
	}
}

func exitCode(ts *testscript.TestScript, neg bool, args []string) {
	s := scene(ts, args, 1)
	code, err := strconv.Atoi(args[0])
	ts.Check(err)
	if (s.last.Code == code) == neg {
		ts.Fatalf("exit code %d", s.last.Code)
	}
}

func eventually(ts *testscript.TestScript, neg bool, args []string) {
	s := scene(ts, args, 2)
	ctx, cancel := context.WithTimeout(s.host.Life(), 2*patience)
	defer cancel()
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		r, err := s.host.Run(ctx, command(args[0], args[1:]))
		s.check(ts, err)
		if (r.Code != 0) == neg || time.Now().After(deadline) {
			s.told(ts, neg, r)
			return
		}
	}
}

// begun is a command that runs while the scenario goes on.
type begun struct {
	process        *talk.Process
	stdout, stderr bytes.Buffer
	flow           *flow // or nil
}

func begin(ts *testscript.TestScript, neg bool, args []string) {
	s := scene(ts, args, 3)
	b := &begun{}
	var err error
	b.process, err = s.host.Start(command(args[1], args[2:]), talk.Streams{Stdout: &b.stdout, Stderr: &b.stderr})
	ts.Check(err)
	s.begun[args[0]] = b
}

func end(ts *testscript.TestScript, neg bool, args []string) {
	s := scene(ts, args, 1)
	b := s.begun[args[0]]
	if b == nil {
		ts.Fatalf("%s has not begun", args[0])
	}
	ctx, cancel := context.WithTimeout(s.host.Life(), patience)
	defer cancel()
	if b.flow != nil {
		b.flow.end()
	}
	code, err := b.process.Wait(ctx)
	s.check(ts, err)
	if b.flow != nil && !neg {
		ts.Check(b.flow.verdict())
		ts.Logf("%d bytes came back as they were sent", b.flow.moved())
	}
	s.told(ts, neg, rig.Result{Stdout: b.stdout.String(), Stderr: b.stderr.String(), Code: code})
}

func put(ts *testscript.TestScript, neg bool, args []string) {
	s := scene(ts, args, 2)
	mode := uint64(0o644)
	if len(args) > 2 {
		var err error
		mode, err = strconv.ParseUint(args[2], 8, 12)
		ts.Check(err)
	}
	s.check(ts, s.host.Put(s.host.Life(), args[1], os.FileMode(mode), strings.NewReader(ts.ReadFile(args[0]))))
}

func reboot(ts *testscript.TestScript, neg bool, args []string) {
	s := scene(ts, args, 0)
	s.check(ts, s.host.Reboot(s.host.Life(), args...))
}

func crash(ts *testscript.TestScript, neg bool, args []string) {
	s := scene(ts, args, 0)
	s.check(ts, s.host.Crash(s.host.Life()))
}

func journal(ts *testscript.TestScript, neg bool, args []string) {
	as("root")(ts, neg, append([]string{"journalctl", "--no-pager", "--quiet", "--output=cat"}, args...))
}
