package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"banger/personas/api"
)

// vmCmd is the noun vm.
type vmCmd struct {
	Run     vmRunCmd     `cmd:"" help:"Create and start a VM and run a command or a shell in it."`
	Create  vmCreateCmd  `cmd:"" help:"Create a VM without starting it."`
	Start   vmStartCmd   `cmd:"" help:"Start stopped VMs."`
	Stop    vmStopCmd    `cmd:"" help:"Shut VMs down; nothing that the guest wrote is lost."`
	Restart vmRestartCmd `cmd:"" help:"Stop and start VMs."`
	Kill    vmKillCmd    `cmd:"" help:"End VMs at once; what the guest has not synced is lost."`
	Delete  vmDeleteCmd  `cmd:"" aliases:"rm" help:"Delete VMs and their disks."`
	List    vmListCmd    `cmd:"" aliases:"ps,ls" help:"List all VMs."`
	Show    vmShowCmd    `cmd:"" help:"Show everything about a VM."`
	Exec    vmExecCmd    `cmd:"" help:"Run a command or a shell in a running VM."`
	SSH     sshCmd       `cmd:"" name:"ssh" help:"Open a shell in a running VM, by ssh where it has an sshd."`
	Logs    vmLogsCmd    `cmd:"" help:"Print the serial console of a VM."`
	Copy    vmCopyCmd    `cmd:"" name:"cp" help:"Copy files and trees into or out of a running VM."`
}

// vmFlags describe a VM that is to be. What is not given is the daemon's to fill in,
// by the owner's configuration first.
type vmFlags struct {
	Name    string   `placeholder:"NAME" help:"Name of the VM. Chosen if not given."`
	Image   string   `placeholder:"IMAGE" help:"Root file system, by name or digest. Default: the configured one, else the one marked default, else the only one."`
	Kernel  string   `placeholder:"KERNEL" help:"Kernel, by name or digest. Default: as for --image."`
	CPUs    *int     `name:"cpus" placeholder:"N" help:"Virtual CPUs. Default: see banger config show."`
	Memory  *size    `placeholder:"SIZE" help:"Memory, such as 512m or 2GiB, rounded up to whole MiB. A bare number is bytes. Default: see banger config show."`
	Disk    *size    `placeholder:"SIZE" help:"Size of the root disk, such as 10g. A bare number is bytes. Default: the configured one, else 10 GiB; more if the image needs it."`
	Net     *string  `enum:"none,internet,full" placeholder:"MODE" help:"What the VM may reach: none, internet (public addresses only) or full (private ones too)."`
	Env     []string `short:"e" sep:"none" placeholder:"K=V" help:"Environment of every command in the VM. May be repeated."`
	User    string   `placeholder:"USER" help:"User of every command in the VM: name or number, optionally :group."`
	WorkDir string   `name:"workdir" placeholder:"DIR" help:"Working directory of every command in the VM."`
	Init    string   `enum:"auto,banger,image" default:"auto" placeholder:"INIT" help:"What is PID 1: auto (the image's init if it has one), banger or image."`
	VMM     *string  `name:"vmm" enum:"auto,firecracker,qemu" placeholder:"VMM" help:"What runs the VM: auto (firecracker where KVM is usable, else qemu), firecracker or qemu."`
	Backend *string  `enum:"auto,reflink,snapshot,overlay,copy" placeholder:"BACKEND" help:"How the disk is made from the image: auto (the first that works here), reflink, snapshot, overlay or copy."`
}

// spec returns what f asks for. Everything that no VM can have is a usage error.
func (f *vmFlags) spec() (api.VMSpec, error) {
	s := api.VMSpec{
		Name: f.Name, Image: f.Image, Kernel: f.Kernel,
		Net: word[api.Net](f.Net), Init: api.Init(f.Init), VMM: word[api.VMM](f.VMM), Backend: word[api.Backend](f.Backend),
		Env: f.Env, User: f.User, WorkDir: f.WorkDir,
	}
	if f.CPUs != nil {
		if *f.CPUs < 1 {
			return s, usagef("cpus %d: want 1 to %d", *f.CPUs, api.MaxCPUs)
		}
		s.CPUs = *f.CPUs
	}
	if f.Memory != nil {
		mib := f.Memory.mebibytes()
		if mib < api.MinMemMiB || mib > api.MaxMemMiB {
			return s, usagef("memory %s: want %d MiB to %d GiB", humanSize(int64(*f.Memory)), api.MinMemMiB, api.MaxMemMiB>>10)
		}
		s.MemMiB = int(mib)
	}
	if f.Disk != nil {
		s.DiskBytes = int64(*f.Disk)
	}
	if err := s.Validate(); err != nil {
		return s, usagef("%v", err)
	}
	return s, nil
}

// word is what a flag was given as, or nothing.
func word[T ~string](flag *string) T {
	if flag == nil {
		return ""
	}
	return T(*flag)
}

// vmCreateCmd is `banger vm create`.
type vmCreateCmd struct {
	vmFlags `embed:""`
}

// Help returns examples.
func (vmCreateCmd) Help() string {
	return `The name of the new VM is printed.

    banger vm create --name web --memory 512m --disk 10g
    banger vm start web`
}

// Run creates a VM.
func (c *vmCreateCmd) Run(ctx context.Context, a *app) error {
	spec, err := c.spec()
	if err != nil {
		return err
	}
	if spec.AuthorizedKeys, err = a.authorizedKeys(); err != nil {
		return err
	}
	client, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	show, end := a.progress("")
	vm, err := client.CreateVM(ctx, spec, show)
	end()
	if err != nil {
		return err
	}
	return a.printVM(vm)
}

// printVM prints the VM that a command has made: its name, or all as JSON.
func (a *app) printVM(vm api.VM) error {
	if a.json {
		return a.printJSON(vm)
	}
	return a.printNames([]string{vm.Name})
}

// vmListCmd is `banger vm list`.
type vmListCmd struct{}

// Help returns examples.
func (vmListCmd) Help() string {
	return `VMs that do not run are listed too.

    banger vm list
    banger vm list --quiet | xargs banger vm stop
    banger vm list --output json | jq -r '.[].address'`
}

// Run lists the VMs.
func (c *vmListCmd) Run(ctx context.Context, a *app) error {
	client, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	vms, err := client.VMs(ctx)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(list(vms))
	}
	rows, names := make([][]string, len(vms)), make([]string, len(vms))
	for i, vm := range vms {
		names[i] = vm.Name
		rows[i] = []string{
			vm.Name, vmState(vm), imageOf(vm), strconv.Itoa(vm.Spec.CPUs), mebibytes(vm.Spec.MemMiB),
			vm.Address, string(vm.VMM), age(vm.CreatedAt),
		}
	}
	if a.quiet {
		return a.printNames(names)
	}
	return a.printTable([]string{"NAME", "STATE", "IMAGE", "CPUS", "MEMORY", "ADDRESS", "VMM", "AGE"}, rows)
}

// list makes an empty list of none, so that JSON says [] and not null.
func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

func imageOf(vm api.VM) string {
	if vm.Spec.Image != "" {
		return vm.Spec.Image
	}
	return shortDigest(vm.Image)
}

func mebibytes(n int) string {
	if n == 0 {
		return ""
	}
	return humanSize(int64(n) * units.MiB)
}

// vmShowCmd is `banger vm show`.
type vmShowCmd struct {
	VM string `arg:"" name:"vm" help:"Name or id of the VM."`
}

// Help returns examples.
func (vmShowCmd) Help() string {
	return `Where the defaults were taken, what they are now is shown.

    banger vm show web
    banger vm show web --output json | jq -r .address`
}

// Run shows one VM.
func (c *vmShowCmd) Run(ctx context.Context, a *app) error {
	client, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	vm, err := client.VM(ctx, c.VM)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(vm)
	}
	pid, cpus, disk := "", "", ""
	if vm.PID != 0 {
		pid = strconv.Itoa(vm.PID)
	}
	if vm.Spec.CPUs != 0 {
		cpus = strconv.Itoa(vm.Spec.CPUs)
	}
	if vm.Spec.DiskBytes != 0 {
		disk = humanSize(vm.Spec.DiskBytes)
	}
	return a.printFields([][2]string{
		{"name", vm.Name}, {"id", vm.ID}, {"state", vmState(vm)}, {"reason", vm.Reason},
		{"image", named(vm.Spec.Image, vm.Image)}, {"kernel", named(vm.Spec.Kernel, vm.Kernel)},
		{"cpus", cpus}, {"memory", mebibytes(vm.Spec.MemMiB)}, {"disk", disk}, {"disk file", vm.Disk}, {"backend", string(vm.Backend)},
		{"vmm", string(vm.VMM)}, {"pid", pid}, {"net", string(vm.Spec.Net)}, {"address", vm.Address}, {"mac", vm.MAC},
		{"init", string(vm.Spec.Init)}, {"env", strings.Join(vm.Spec.Env, " ")}, {"user", vm.Spec.User}, {"workdir", vm.Spec.WorkDir},
		{"deleted when stopped", yes(vm.Spec.AutoRemove)},
		{"created", timestamp(vm.CreatedAt)}, {"started", timestamp(vm.StartedAt)},
	})
}

// named is a name with the digest that it stands for.
func named(name, digest string) string {
	if name == "" || name == digest {
		return digest
	}
	return fmt.Sprintf("%s (%s)", name, digest)
}
