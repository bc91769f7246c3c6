package kernel

import (
	"os"
	"path"

	"banger/store/kernel/modules"
)

// insists tells whether a kernel with this configuration may refuse modules without
// a signature. An unknown configuration may.
func (c config) insists() bool {
	return c == nil || c["MODULE_SIG_FORCE"] == "y" ||
		c["LOCK_DOWN_KERNEL_FORCE_INTEGRITY"] == "y" || c["LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY"] == "y"
}

// stripSignatures takes the signatures off the modules at paths. Verifying them is a
// third to a half of the time that a guest needs to load its modules under emulation,
// and proves nothing to it: whoever gives it the modules gave it the kernel.
func stripSignatures(root *os.Root, paths []string) error {
	for _, p := range paths {
		name := path.Join(ModulesDir, p)
		data, err := root.ReadFile(name)
		if err != nil {
			return err
		}
		stripped := modules.StripSignature(data)
		if len(stripped) == len(data) {
			continue
		}
		if err := root.WriteFile(name, stripped, 0o600); err != nil {
			return err
		}
	}
	return nil
}
