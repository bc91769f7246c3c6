package install

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"

	"banger/install/layout"
)

// Unit is one of banger's units as systemd has it.
type Unit struct {
	Name string `json:"name"`
	// Active is its state, such as "active (running)".
	Active string `json:"active"`
}

// services are the units that an installation keeps active.
var services = []string{
	layout.NetService, layout.NetWatch, layout.HelperSocket, layout.HelperService, layout.DaemonSocket, layout.DaemonService,
}

// Units asks systemd for the states of banger's units. Anybody may ask.
func Units(ctx context.Context) ([]Unit, error) {
	argv := append([]string{"show", "--property=Id,ActiveState,SubState", "--"}, services...)
	out, err := exec.CommandContext(ctx, "systemctl", argv...).Output()
	if err != nil {
		return nil, fmt.Errorf("ask systemd for units: %w", err)
	}
	return parseUnits(out), nil
}

// parseUnits reads what systemctl show prints: blocks of lines with a blank line
// between them.
func parseUnits(out []byte) []Unit {
	var units []Unit
	var id, active, sub string
	flush := func() {
		if id != "" {
			units = append(units, Unit{Name: id, Active: active + " (" + sub + ")"})
		}
		id, active, sub = "", "", ""
	}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		key, value, ok := strings.Cut(lines.Text(), "=")
		switch {
		case !ok:
			flush()
		case key == "Id":
			id = value
		case key == "ActiveState":
			active = value
		case key == "SubState":
			sub = value
		}
	}
	flush()
	return units
}
