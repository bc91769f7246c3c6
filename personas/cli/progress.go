package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"banger/personas/api"
)

// redrawEvery is how often the live line shows a newer time.
const redrawEvery = 100 * time.Millisecond

// progress shows the steps of one request. On a terminal the steps that run
// share one live line, and each that ends leaves a line with its time; elsewhere
// there are only the latter.
type progress struct {
	w      io.Writer
	prefix string
	live   bool
	width  func() int
	done   chan struct{}
	wait   sync.WaitGroup

	// mu guards the fields that follow, and the order of what is written.
	mu    sync.Mutex
	steps []step
	bytes int64
	shown bool
}

type step struct {
	name  string
	since time.Time
}

// progress returns a function that shows events, which is nil when the user
// wants none, and one that ends the show. prefix names what the events are
// about where several requests run side by side; those have no live line.
func (a *app) progress(prefix string) (show func(api.Event), end func()) {
	if a.quiet {
		return nil, func() {}
	}
	p := &progress{w: a.err, prefix: prefix, live: prefix == "" && isTerminal(a.err), done: make(chan struct{})}
	p.width = func() int { return terminalWidth(a.err) }
	if p.live {
		p.wait.Go(p.redraw)
	}
	return p.event, p.end
}

func (p *progress) event(ev api.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.eraseLocked()
	if ev.Notice != "" {
		fmt.Fprintf(p.w, "banger: %s%s\n", p.prefix, printable(ev.Notice))
	}
	if ev.Bytes > 0 {
		p.bytes = ev.Bytes
	}
	switch {
	case ev.Step == "":
	case ev.Done:
		took := time.Duration(ev.Millis * float64(time.Millisecond))
		p.removeLocked(ev.Step)
		fmt.Fprintf(p.w, "%s%-10s %s\n", p.prefix, oneLine(ev.Step), seconds(took))
	case !p.runsLocked(ev.Step):
		p.steps = append(p.steps, step{name: ev.Step, since: time.Now()})
	}
	p.drawLocked()
}

func (p *progress) runsLocked(name string) bool {
	for _, s := range p.steps {
		if s.name == name {
			return true
		}
	}
	return false
}

func (p *progress) removeLocked(name string) {
	for i, s := range p.steps {
		if s.name == name {
			p.steps = append(p.steps[:i:i], p.steps[i+1:]...)
			return
		}
	}
}

func (p *progress) redraw() {
	tick := time.NewTicker(redrawEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.mu.Lock()
			p.drawLocked()
			p.mu.Unlock()
		case <-p.done:
			return
		}
	}
}

func (p *progress) drawLocked() {
	if !p.live || len(p.steps) == 0 {
		return
	}
	parts := make([]string, len(p.steps))
	for i, s := range p.steps {
		parts[i] = fmt.Sprintf("%-10s %s", oneLine(s.name), seconds(time.Since(s.since)))
	}
	line := p.prefix + strings.Join(parts, "   ")
	if p.bytes > 0 {
		line += "   " + humanSize(p.bytes)
	}
	if runes := []rune(line); len(runes) >= p.width() {
		line = string(runes[:max(0, p.width()-1)])
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s", line)
	p.shown = true
}

func (p *progress) eraseLocked() {
	if p.shown {
		io.WriteString(p.w, "\r\x1b[K")
		p.shown = false
	}
}

// end removes the live line. The steps that still run have failed or do not
// matter any more.
func (p *progress) end() {
	close(p.done)
	p.wait.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.eraseLocked()
}

func seconds(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

func terminalWidth(f *os.File) int {
	if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
		return w
	}
	return 80
}
