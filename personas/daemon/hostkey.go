package daemon

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"banger/personas/daemon/vm"
)

// newHostKey makes the key that a VM's sshd will have. It is made here and not in
// the guest, so that the host knows it before the first connection.
func newHostKey() (vm.HostKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return vm.HostKey{}, fmt.Errorf("make host key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return vm.HostKey{}, fmt.Errorf("make host key: %w", err)
	}
	pub, err := ssh.NewPublicKey(public)
	if err != nil {
		return vm.HostKey{}, fmt.Errorf("make host key: %w", err)
	}
	return vm.HostKey{
		Private: string(pem.EncodeToMemory(block)),
		Public:  strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub))),
	}, nil
}
