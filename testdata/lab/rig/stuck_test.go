package rig

import "testing"

// What QEMU 7.2 printed, cut to what matters.
const (
	sleeping = "RIP=ffffffff8c017a0b RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\nES =0000"
	working  = "RIP=ffffffff8c017a0b RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0\r\nES =0000"
	inShadow = "RIP=ffffffff8c017a0b RFL=00000246 [---Z-P-] CPL=0 II=1 A20=1 SMM=0 HLT=1\r\nES =0000"
	forSIPI  = "EIP=000fd09a EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\nES =0000"
	nothing  = "dumping local APIC state for CPU 0\r\n\r\nISR\t (none)\r\nIRR\t (none)\r\n\r\nAPR 0x00"
	timer    = "dumping local APIC state for CPU 0\r\n\r\nISR\t (none)\r\nIRR\t 236 \r\n\r\nAPR 0x00"
)

func TestPending(t *testing.T) {
	for name, c := range map[string]struct {
		registers, apic string
		want            bool
	}{
		"stuck":                      {sleeping, timer, true},
		"idle":                       {sleeping, nothing, false},
		"at work":                    {working, timer, false},
		"just told to wait":          {inShadow, timer, false},
		"waiting for its boot":       {forSIPI, timer, false},
		"a monitor without the APIC": {sleeping, "no APIC", false},
	} {
		if got := pending(c.registers, c.apic); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}
