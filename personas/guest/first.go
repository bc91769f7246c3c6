package guest

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"banger/personas"
	"banger/personas/guest/agent"
	"banger/personas/guest/etc"
	"banger/personas/guest/halt"
	"banger/personas/guest/initd"
	"banger/personas/guest/link"
	"banger/personas/guest/nic"
	"banger/personas/guest/rootfs"
)

const (
	// bootTimeout bounds the way from the first instruction to the agent, and
	// diskTimeout its wait for the disks: what does not come is told, and not
	// waited for for ever.
	bootTimeout = 60 * time.Second
	// hangTimeout is shortly before the host gives up.
	hangTimeout = 100 * time.Second
	diskTimeout = 15 * time.Second
	// endGrace is how long processes have after SIGTERM, under our own init.
	endGrace = 10 * time.Second
)

// first is PID 1. It returns only when the machine cannot be ended.
func first(ctx context.Context, version string) {
	b := &boot{version: version}
	if err := b.run(ctx); err != nil {
		report(fmt.Errorf("boot: %w", err))
		if b.host != nil {
			b.host.fail(err)
		}
		if err := halt.Now(endGrace); err != nil {
			report(err)
		}
	}
}

// A boot is one way from the initrd to a running guest.
type boot struct {
	version  string
	host     *host
	warnings []error
	watch    watch
}

// run is the boot from its begin to its end. It returns an error, or never. What
// does not need each other runs side by side: half of the time is the kernel's.
func (b *boot) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	b.watch.at("mount the kernel's file systems")
	b.watch.begin(hangTimeout)
	defer b.watch.end()
	missing, err := rootfs.MountKernel()
	if err != nil {
		return err
	}
	b.warn(missing...)
	openConsole()
	personas.SetName(processName)
	release := agent.KernelRelease()
	modules := begin(&b.watch, "load modules", func() []error { return rootfs.LoadModules(release) })

	config, err := b.ask(ctx)
	if err != nil {
		b.warn(modules()...)
		return err
	}
	network := begin(&b.watch, "bring up the network", func() (up network) {
		modules() // the interface's is the last of them
		up.nic, up.err = nic.Up(config.Network)
		return up
	})
	b.watch.at("mount the disk")
	b.warn(setIdentity(config)...)
	root, err := mountRoot(ctx, release, config.Disk)
	b.warn(modules()...)
	if err != nil {
		return err
	}
	b.warn(root.Warnings...)
	b.watch.at("switch to the disk")
	if err := rootfs.KeepProgram(); err != nil {
		b.warn(err)
	}
	if err := rootfs.Switch(); err != nil {
		return err
	}
	more := begin(&b.watch, "provide modules", func() error { return provideModules(ctx, release, config) })
	b.watch.at("choose an init")
	init, err := chooseInit("/", config.Init)
	if err != nil {
		return err
	}
	b.watch.at("write the image's configuration")
	b.settle(config, root, network())
	if err := more(); err != nil {
		b.warn(err)
	}
	return b.hand(config, root, init)
}

func mountRoot(ctx context.Context, release string, disk link.Disk) (*rootfs.Root, error) {
	ctx, cancel := context.WithTimeout(ctx, diskTimeout)
	defer cancel()
	return rootfs.Mount(ctx, release, disk)
}

// begin runs fn, which is a step of this name, beside the caller, and returns a
// function that waits for its result.
func begin[T any](w *watch, name string, fn func() T) (wait func() T) {
	done := make(chan struct{})
	var result T
	end := w.step(name)
	go func() {
		defer close(done)
		defer end()
		result = fn()
	}()
	return func() T {
		<-done
		return result
	}
}

// network is what came of bringing it up.
type network struct {
	nic string
	err error
}

// ask dials the host and receives the boot configuration.
func (b *boot) ask(ctx context.Context) (config link.BootConfig, err error) {
	b.watch.at("ask the host")
	if b.host, err = dialHost(ctx); err != nil {
		return config, err
	}
	b.watch.tell(b.host)
	return b.host.hello(ctx, link.Hello{
		Version:       b.version,
		KernelRelease: agent.KernelRelease(),
		BootID:        agent.BootID(),
		UptimeNanos:   int64(agent.Uptime()),
	})
}

// settle does what a guest can also live without.
func (b *boot) settle(config link.BootConfig, root *rootfs.Root, up network) {
	if config.Disk.Grow {
		if err := rootfs.Grow(root.Own); err != nil {
			b.warn(err)
		}
	}
	if up.err != nil {
		b.warn(up.err)
	}
	b.warn(etc.Tree{Root: "/"}.Apply(config, up.nic)...)
}

// hand starts the agent, and makes PID 1 what it is from now on.
func (b *boot) hand(config link.BootConfig, root *rootfs.Root, init initProgram) error {
	b.watch.at("start the agent")
	listener, err := listenAgent()
	if err != nil {
		return err
	}
	if init.path != "" {
		if err := (etc.Tree{Root: "/"}).SoftenFstab(); err != nil {
			b.warn(err)
		}
	} else {
		b.warn(rootfs.MountForOwnInit()...)
	}
	for _, w := range b.warnings {
		report(w)
	}
	start := agentStart{
		listener: listener,
		config: agentConfig{
			Defaults: config.Exec, Disk: root.Own, Init: init.path, Systemd: init.systemd,
		},
	}
	if init.path != "" {
		if _, err := start.run(b.host, b.warnings); err != nil {
			return err
		}
		// What is open here is close-on-exec: the init gets a clean start.
		err := syscall.Exec(init.path, []string{init.path}, []string{"HOME=/", "TERM=linux"})
		return fmt.Errorf("exec %q: %w", init.path, err)
	}
	b.watch.end()
	host, warnings := b.host, b.warnings // the first agent's: those after it have nobody to tell
	own := initd.Init{
		Agent: func() (int, error) {
			defer func() { host, warnings = nil, nil }()
			if host != nil {
				defer host.close()
			}
			return start.run(host, warnings)
		},
		End:    func() error { return halt.Now(endGrace) },
		Report: report,
	}
	return own.Run()
}

func (b *boot) warn(errs ...error) { b.warnings = append(b.warnings, errs...) }

// openConsole makes the console the standard files: those that the kernel opened
// for /init lie in the initrd, if it found any.
func openConsole() {
	f, err := os.OpenFile("/dev/console", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return // then nobody can be told either
	}
	defer f.Close()
	for fd := range 3 {
		_ = syscall.Dup3(int(f.Fd()), fd, 0)
	}
}
