package guest_test

import (
	"testing"

	"banger/personas/guest/link"
)

// VMs of one image have machine ids of their own, which stay; and one that was
// set inside of a VM is kept.
func TestBootMachineID(t *testing.T) {
	const first, second, mine = "0123456789ab4def8123456789abcdef", "fedcba9876544210a876543210fedcba", "aaaaaaaaaaaa4aaaaaaaaaaaaaaaaaaa"
	disk := diskOf(t, "debian-systemd.tar")
	c := config()
	c.MachineID, c.FirstBoot = first, true
	m := start(t, disk)
	m.mustBoot(t, c)
	// Systemd reads it when it starts, and makes one up where there is none.
	for script, want := range map[string]string{
		"for i in $(seq 500); do [ -S /run/systemd/private ] && break; sleep 0.2; done; systemd-id128 machine-id": first + "\n",
		"cat /etc/machine-id":        first + "\n",
		"stat -c %a /etc/machine-id": "444\n",
	} {
		if got := m.sh(t, script); got != want {
			t.Errorf("%s: got %q, want %q", script, got, want)
		}
	}
	m.sh(t, "echo "+mine+" >/etc/machine-id")
	m.shutdown(t, link.ShutdownRequest{Force: true})

	c.FirstBoot, c.Init = false, link.InitBanger
	again := start(t, disk)
	again.mustBoot(t, c)
	if got := again.sh(t, "cat /etc/machine-id"); got != mine+"\n" {
		t.Errorf("after a restart, the user's id is %q", got)
	}
	again.shutdown(t, link.ShutdownRequest{Force: true})

	c.MachineID, c.FirstBoot = second, true
	other := start(t, diskOf(t, "debian-systemd.tar"))
	other.mustBoot(t, c)
	if got := other.sh(t, "cat /etc/machine-id"); got != second+"\n" {
		t.Errorf("another VM of the image has %q", got)
	}
}
