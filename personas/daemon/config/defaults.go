package config

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"banger/personas/api"
)

// What a VM gets where neither the user nor the file says more.
const (
	// builtinDisk is the size of the root disk, in bytes.
	builtinDisk = 10 << 30
	// The host's share is an eighth of its memory, in whole steps, and all of its
	// CPUs; both within what one sandbox of many is good for.
	mostCPUs  = 4
	memShare  = 8
	stepMiB   = 256
	leastMiB  = 512
	mostMiB   = 2048
	fromHost  = "host"
	fromBuilt = "built-in"
)

// Host is what there is to share.
type Host struct {
	CPUs   int
	MemMiB int
}

// ThisHost looks at the host, within what a container around it may have.
func ThisHost() Host {
	h := Host{CPUs: runtime.NumCPU()}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		h.MemMiB = int(uint64(info.Totalram) * uint64(info.Unit) / units.MiB)
	}
	// The root of the cgroups in sight has a limit only where it is a container's.
	if text, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil {
			h.MemMiB = int(min(uint64(h.MemMiB), n/units.MiB))
		}
	}
	return h
}

// share is what suits one VM of the host.
func (h Host) share() api.VMSpec {
	mem := h.MemMiB / memShare / stepMiB * stepMiB
	return api.VMSpec{CPUs: min(max(h.CPUs, 1), mostCPUs), MemMiB: min(max(mem, leastMiB), mostMiB)}
}

func builtin() api.VMSpec {
	return api.VMSpec{DiskBytes: builtinDisk, Net: api.NetInternet, VMM: api.VMMAuto, Backend: api.BackendAuto}
}

// Fill gives spec what it leaves open: what the file says, then what suits the
// host, then what is built in. Image and kernel may stay open.
func (c *Config) Fill(spec *api.VMSpec, host Host) {
	for _, from := range []api.VMSpec{c.Spec, host.share(), builtin()} {
		for _, k := range keys {
			if k.show(spec) == "" {
				k.take(spec, &from)
			}
		}
	}
}

// Settings tells of each key what a VM gets that asks for nothing, and where that
// comes from. Source is empty where it is not for this package to say.
func (c *Config) Settings(host Host) []api.Setting {
	list := make([]api.Setting, len(keys))
	share, base := host.share(), builtin()
	for i, k := range keys {
		s := api.Setting{Key: k.name}
		switch {
		case k.show(&c.Spec) != "":
			s.Value, s.Source = k.show(&c.Spec), c.Source(k.name)
		case k.show(&share) != "":
			s.Value, s.Source = k.show(&share), fromHost
		case k.show(&base) != "":
			s.Value, s.Source = k.show(&base), fromBuilt
		}
		list[i] = s
	}
	return list
}
