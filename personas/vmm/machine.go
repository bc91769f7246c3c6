package vmm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"

	"banger/fc"
	"banger/fc/server"
	"banger/personas/vmm/qmp"
	"banger/personas/vmm/vsock"
)

// machine is a server.Machine over QEMU. What the API names before boot is opened at once,
// under the name that it has then, and reaches QEMU as a descriptor.
type machine struct {
	id      string
	log     *logger
	clock   *tscClock
	metrics metrics
	// ended gets what ended the guest: nil if it did so itself.
	ended chan error

	// The server calls one method at a time; what follows needs no lock.
	kernel, initrd *os.File
	serial         *os.File
	drives         map[string]*os.File
	taps           map[string]*tap
	vsock          *vsock.Device

	// What follows is there once the guest runs.
	config  fc.VMConfig
	disks   []disk
	process *process
	qmp     *qmp.Conn
	// balloonMiB is what the balloon was last told to take.
	balloonMiB int
	// sets counts the descriptor sets that were added since the start.
	sets int
}

// tap is an open network interface of the host.
type tap struct {
	name string
	file *os.File
}

func newMachine(id string, log *logger, clock *tscClock) *machine {
	return &machine{
		id: id, log: log, clock: clock,
		ended:  make(chan error, 1),
		drives: make(map[string]*os.File),
		taps:   make(map[string]*tap),
	}
}

// close ends the guest and lets go of everything.
func (m *machine) close() {
	if m.process != nil {
		m.process.kill()
		m.qmp.Close()
	}
	if m.vsock != nil {
		m.vsock.Close()
	}
	m.closeFiles()
	m.metrics.close()
}

// closeFiles lets go of what was opened for the guest.
func (m *machine) closeFiles() {
	for _, f := range []*os.File{m.kernel, m.initrd, m.serial} {
		closeFile(f)
	}
	m.kernel, m.initrd, m.serial = nil, nil, nil
	for _, f := range m.drives {
		f.Close()
	}
	clear(m.drives)
	for _, t := range m.taps {
		t.file.Close()
	}
	clear(m.taps)
}

func closeFile(f *os.File) {
	if f != nil {
		f.Close()
	}
}

// Start implements server.Machine. It returns when QEMU has made the machine and answers;
// the guest has been running since a little before that.
func (m *machine) Start(ctx context.Context, config fc.VMConfig) error {
	path, err := findQEMU()
	if err != nil {
		return err
	}
	if n := devices(config); n >= maxDevices {
		return fmt.Errorf("%d devices are more than the %d that a microvm takes", n, maxDevices-1)
	}
	var l launch
	control, err := m.compose(ctx, &l, config)
	if err != nil {
		return err
	}
	defer control.theirs.close()
	m.log.Debug("starting qemu", "path", path, "args", l.String())
	p, err := spawn(path, &l, m.log)
	if err != nil {
		control.ours.close()
		return err
	}
	// From here on only QEMU holds its ends: its death is the end of file on ours.
	control.theirs.close()
	return m.attach(ctx, p, control, &l, config)
}

// ends are the connections of one QEMU, as seen from one side.
type ends struct{ qmp, vsock *os.File }

func (e *ends) close() {
	closeFile(e.qmp)
	closeFile(e.vsock)
	e.qmp, e.vsock = nil, nil
}

// control are the connections to one QEMU.
type control struct{ ours, theirs ends }

// compose writes the command line for config.
func (m *machine) compose(ctx context.Context, l *launch, config fc.VMConfig) (c *control, err error) {
	c = new(control)
	defer func() {
		if err != nil {
			c.ours.close()
			c.theirs.close()
		}
	}()
	kvm := m.useKVM(ctx)
	var khz uint64
	if !kvm {
		khz = m.clock.kHz()
	}
	l.machine(config, m.id, kvm)
	l.boot(m.kernel, m.initrd, bootArgs(config, khz))
	l.serial(m.serial)
	if c.ours.qmp, c.theirs.qmp, err = socketPair(); err != nil {
		return c, err
	}
	l.monitor(c.theirs.qmp)
	for i, d := range config.Drives {
		l.drive(i, d, m.drives[d.ID])
	}
	for i, n := range config.Network {
		mac := n.GuestMAC
		if mac == "" {
			mac = randomMAC()
		}
		l.network(i, n, m.taps[n.ID].file, mac)
	}
	if config.Vsock != nil {
		if c.ours.vsock, c.theirs.vsock, err = socketPair(); err != nil {
			return c, err
		}
		l.vsock(c.theirs.vsock)
	}
	if config.Entropy != nil {
		l.entropy(*config.Entropy)
	}
	if config.Balloon != nil {
		l.balloon(*config.Balloon)
	}
	return c, nil
}

// attach makes p the running guest, or ends it.
func (m *machine) attach(ctx context.Context, p *process, c *control, l *launch, config fc.VMConfig) error {
	var reason atomic.Pointer[string]
	monitor, err := unixConn(c.ours.qmp)
	if err != nil {
		c.ours.close()
		p.kill()
		return err
	}
	q := qmp.New(monitor, func(e qmp.Event) { m.event(e, &reason) })
	if err := m.serveVsock(c.ours.vsock, config.Vsock); err != nil {
		p.kill()
		q.Close()
		return err
	}
	if err := m.greet(ctx, p, q, config); err != nil {
		p.kill()
		q.Close()
		return errors.Join(err, m.renewVsock(config.Vsock))
	}
	m.config, m.process, m.qmp = config, p, q
	m.disks = m.identifyDisks(config.Drives, l)
	if config.Balloon != nil {
		m.balloonMiB = config.Balloon.AmountMiB
	}
	// QEMU has its own by now.
	m.closeFiles()
	go m.wait(p, q, &reason)
	return nil
}

// greet waits until QEMU has made the machine and sets what its command line cannot say.
func (m *machine) greet(ctx context.Context, p *process, q *qmp.Conn, config fc.VMConfig) error {
	err := q.Handshake(ctx)
	if errors.Is(err, qmp.ErrClosed) {
		// It ends by itself; its own words are better than ours.
		<-p.done
		return p.failure()
	}
	if err != nil {
		return err
	}
	if config.Balloon == nil {
		return nil
	}
	return startBalloon(ctx, q, config)
}

// serveVsock runs the device until QEMU ends.
func (m *machine) serveVsock(end *os.File, config *fc.Vsock) error {
	if config == nil {
		return nil
	}
	conn, err := unixConn(end)
	if err != nil {
		return err
	}
	device := m.vsock
	go func() {
		if err := device.Serve(context.Background(), conn); err != nil {
			m.log.Error("vsock device failed", "error", err)
		}
	}()
	return nil
}

// renewVsock makes a fresh device for another start.
func (m *machine) renewVsock(config *fc.Vsock) error {
	if config == nil {
		return nil
	}
	return m.openVsock(*config)
}

// wait reports the guest's end.
func (m *machine) wait(p *process, q *qmp.Conn, reason *atomic.Pointer[string]) {
	<-p.done
	<-q.Done()
	why := reason.Load()
	if why != nil && strings.HasPrefix(*why, "guest-") {
		m.log.Info("guest ended", "reason", *why)
		m.ended <- nil
		return
	}
	m.ended <- p.failure()
}

// event looks at what QEMU tells by itself.
func (m *machine) event(e qmp.Event, reason *atomic.Pointer[string]) {
	m.log.Debug("qemu event", "event", printable([]byte(e.Name)))
	if e.Name != "SHUTDOWN" {
		return
	}
	var data struct{ Reason string }
	if json.Unmarshal(e.Data, &data) == nil {
		reason.Store(&data.Reason)
	}
}

// observe logs and counts what the API was asked.
func (m *machine) observe(e server.Event) {
	m.metrics.count(e)
	if e.Fault != "" {
		m.log.Error("request refused", "method", e.Method, "path", e.Path, "fault", e.Fault)
		return
	}
	m.log.Info("request done", "method", e.Method, "path", e.Path, "status", e.Status)
}

// devices counts the virtio devices of config.
func devices(config fc.VMConfig) int {
	n := len(config.Drives) + len(config.Network)
	for _, there := range []bool{config.Vsock != nil, config.Entropy != nil, config.Balloon != nil} {
		if there {
			n++
		}
	}
	return n
}

// unixConn makes a connection of an end of a socket pair, and closes the end.
func unixConn(end *os.File) (*net.UnixConn, error) {
	defer end.Close()
	conn, err := net.FileConn(end)
	if err != nil {
		return nil, fmt.Errorf("adopt socket: %w", err)
	}
	return conn.(*net.UnixConn), nil
}

var _ server.Machine = (*machine)(nil)
