package rig

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// How often the processors of an emulated machine are looked at, and in how many
// looks on end one has to sleep over an interrupt to be stuck.
const (
	lookEvery  = 5 * time.Second
	stuckLooks = 6
)

// ErrStuck is why a host's life is over whose processor does not take interrupts any
// more. QEMU 7.2, as it emulates SVM, loses the global interrupt flag at times, once
// a hypervisor has run: then the processor sleeps for good, and what is queued on it
// waits for good, while the other one goes on.
var ErrStuck = errors.New("it sleeps over an interrupt that its emulator has lost")

// watch returns when a processor is stuck, with ErrStuck, or when ctx or QEMU ends.
func (m *machine) watch(ctx context.Context) error {
	var looks [machineCPUs]int
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lookEvery):
		}
		for i := range looks {
			sleeps, err := m.sleepsOver(ctx, i)
			if err != nil {
				return err
			}
			if !sleeps {
				looks[i] = 0
			} else if looks[i]++; looks[i] == stuckLooks {
				return fmt.Errorf("processor %d of the emulated machine: %w", i, ErrStuck)
			}
		}
	}
}

// processors tells the registers and the local APIC of each processor.
func (m *machine) processors(ctx context.Context) string {
	var b strings.Builder
	for i := range machineCPUs {
		for _, command := range []string{"info registers", "info lapic"} {
			text, err := m.monitor(ctx, i, command)
			if err != nil {
				text = err.Error()
			}
			fmt.Fprintf(&b, "processor %d, %s:\n%s\n", i, command, text)
		}
	}
	return b.String()
}

// sleepsOver reports whether a processor is halted although an interrupt is pending
// in its local APIC and it would take interrupts.
func (m *machine) sleepsOver(ctx context.Context, processor int) (bool, error) {
	registers, err := m.monitor(ctx, processor, "info registers")
	if err != nil {
		return false, err
	}
	apic, err := m.monitor(ctx, processor, "info lapic")
	return err == nil && pending(registers, apic), err
}

// pending is told by what QEMU prints of registers and of the local APIC.
func pending(registers, apic string) bool {
	flags := stateLine.FindStringSubmatch(registers)
	if flags == nil {
		return false
	}
	const interruptFlag = 1 << 9
	rflags, err := strconv.ParseUint(flags[1], 16, 64)
	halted := err == nil && rflags&interruptFlag != 0 && flags[2] == "0" && flags[3] == "1"
	_, irr, there := strings.Cut(apic, "\nIRR")
	irr, _, _ = strings.Cut(irr, "\n")
	return halted && there && strings.Trim(irr, "\t \r") != "(none)"
}

// stateLine has a processor's flags, whether it is in the shadow of an instruction that
// puts interrupts off, and whether it is halted.
var stateLine = regexp.MustCompile(`[RE]FL=([0-9a-f]+) .* II=([01]) .* HLT=([01])`)

// monitor runs a command of QEMU's monitor for one processor.
func (m *machine) monitor(ctx context.Context, processor int, command string) (text string, err error) {
	args := map[string]any{"command-line": command, "cpu-index": processor}
	ctx = context.WithoutCancel(ctx) // the end of which would be that of the conversation
	err = m.qmp.Execute(ctx, "human-monitor-command", args, &text)
	return text, err
}
