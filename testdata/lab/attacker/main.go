// Attacker is what someone who has taken over the owner's account could run: it asks
// the root helper of an installed host for everything that it must refuse.
//
//	attacker [-socket PATH] arm|talk|steps|files|swap|stall
//
// Run it as the owner, with one VM running. It knows the operations from their
// declarations, so that a new one is attacked as soon as it is declared.
//
//	arm    gives the helper a kernel, as an owner may: the others need one
//	talk   malformed, truncated, oversize and lying requests
//	steps  operations out of order, again, and on VMs that are not there; what came
//	       back with a VM, misused
//	files  descriptors of everything that is no disk or kernel
//	swap   files that are exchanged, truncated and written while they are looked at
//	stall  files on file systems that never answer
//
// It prints how often each operation was refused with which code, tells what was not,
// and then exits with 1.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"banger/ops"
)

func main() {
	if os.Args[0] == strangerName {
		os.Exit(strange(os.Args[1:]))
	}
	socket := flag.String("socket", ops.SocketPath, "where the helper listens")
	flag.Parse()
	attacks := map[string]func(*attacker) error{
		"arm": (*attacker).arm, "talk": (*attacker).talk, "steps": (*attacker).steps,
		"files": (*attacker).files, "swap": (*attacker).swap, "stall": (*attacker).stall,
	}
	attack := attacks[flag.Arg(0)]
	if attack == nil || flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: attacker [-socket PATH]", strings.Join(slices.Sorted(maps.Keys(attacks)), "|"))
		os.Exit(2)
	}
	a := &attacker{socket: *socket, client: ops.NewClient(*socket), count: make(map[string]map[string]int)}
	begin := time.Now()
	err := a.run(attack)
	fmt.Fprintln(os.Stderr, "took", time.Since(begin))
	for _, op := range slices.Sorted(maps.Keys(a.count)) {
		var b strings.Builder
		for _, code := range slices.Sorted(maps.Keys(a.count[op])) {
			fmt.Fprintf(&b, " %s %d", code, a.count[op][code])
		}
		fmt.Printf("%-12s%s\n", op, b.String())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "attacker:", err)
		os.Exit(1)
	}
}

// attacker counts what it was answered.
type attacker struct {
	socket   string
	client   *ops.Client               // for what an honest owner says
	count    map[string]map[string]int // answers by operation and code
	breaches []string
	dir      string // of its files
}

// run attacks in a folder of its own, and looks whether anything has changed.
func (a *attacker) run(attack func(*attacker) error) (err error) {
	// In the home: what lies in /tmp need not be where the helper sees it.
	home, err := os.UserHomeDir()
	if err != nil {
		return err
	}
	if a.dir, err = os.MkdirTemp(home, "attacker-"); err != nil {
		return err
	}
	defer os.RemoveAll(a.dir)
	before, err := a.state()
	if err != nil {
		return err
	}
	if err := attack(a); err != nil {
		return err
	}
	after, err := a.state()
	if err != nil {
		return fmt.Errorf("the helper after the attack: %w", err)
	}
	if before != after {
		a.breach("the helper's state was %s, and is %s", before, after)
	}
	if len(a.breaches) == 0 {
		return nil
	}
	const most = 40
	told := a.breaches[:min(most, len(a.breaches))]
	return fmt.Errorf("%d times it went wrong:\n%s", len(a.breaches), strings.Join(told, "\n"))
}

// breach notes what must not be.
func (a *attacker) breach(format string, args ...any) {
	a.breaches = append(a.breaches, fmt.Sprintf(format, args...))
}

// tally counts an answer to an operation.
func (a *attacker) tally(op, code string) {
	if a.count[op] == nil {
		a.count[op] = make(map[string]int)
	}
	a.count[op][code]++
}

// state is everything that the helper tells of itself and of what it has made.
func (a *attacker) state() (string, error) {
	ctx := context.Background()
	hello, _, err := ops.Hello.Call(ctx, a.client, ops.None{})
	if err != nil {
		return "", err
	}
	inventory, err := a.list(ops.Inventory)
	if err != nil {
		return "", err
	}
	vms, err := a.vms()
	return fmt.Sprintf("%+v %s %+v", hello, inventory, vms), err
}

// list reads the one file that an operation answers with.
func (a *attacker) list(op *ops.Op[ops.None, ops.None]) ([]byte, error) {
	_, files, err := op.Call(context.Background(), a.client, ops.None{})
	if err != nil {
		return nil, err
	}
	defer files[0].Close()
	return io.ReadAll(io.NewSectionReader(files[0], 0, 1<<20))
}

// vms returns the owner's VMs, as the helper knows them.
func (a *attacker) vms() (list []ops.Reservation, err error) {
	data, err := a.list(ops.Reconcile)
	if err == nil {
		err = json.Unmarshal(data, &list)
	}
	slices.SortFunc(list, func(a, b ops.Reservation) int { return cmp.Compare(a.Slot, b.Slot) })
	return list, err
}

// victim returns the handle of a VM that runs.
func (a *attacker) victim() (string, error) {
	vms, err := a.vms()
	for _, vm := range vms {
		if vm.Running {
			return vm.Handle, nil
		}
	}
	return "", errors.Join(errors.New("needs a VM that runs"), err)
}
