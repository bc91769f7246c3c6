package vmm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// flags are Firecracker's command line.
type flags struct {
	apiSock     string
	id          string
	configFile  string
	noAPI       bool
	logPath     string
	level       string
	showLevel   bool
	showOrigin  bool
	module      string
	metricsPath string
	version     bool
	help        bool
	// ignored are the names of given flags that are for KVM, seccomp or measuring, and
	// that mean nothing to QEMU.
	ignored []string
}

// flag is one argument of the command line.
type flag struct {
	name string
	help string
	// Exactly one of the three says what the flag does; value is for one that takes one.
	value   *string
	on      *bool
	ignored ignoring
}

// ignoring tells whether an ignored flag takes a value.
type ignoring int

const (
	heeded ignoring = iota
	ignoredAlone
	ignoredWithValue
)

// table is the command line, for parsing and for the usage.
func (f *flags) table() []flag {
	return []flag{
		{name: "api-sock", value: &f.apiSock, help: "Path to unix domain socket used by the API. [default: /run/firecracker.socket]"},
		{name: "id", value: &f.id, help: "MicroVM unique identifier. [default: anonymous-instance]"},
		{name: "config-file", value: &f.configFile, help: "Path to a file that contains the microVM configuration in JSON format."},
		{name: "no-api", on: &f.noAPI, help: "Start without an API socket; requires --config-file."},
		{name: "log-path", value: &f.logPath, help: "Path to a fifo or a file for the log. [default: standard error]"},
		{name: "level", value: &f.level, help: "Log level: Error, Warning, Info, Debug, Trace or Off. [default: Info]"},
		{name: "module", value: &f.module, help: "Accepted; this log has no modules."},
		{name: "show-level", on: &f.showLevel, help: "Show the level in the log."},
		{name: "show-log-origin", on: &f.showOrigin, help: "Show the file and line in the log."},
		{name: "metrics-path", value: &f.metricsPath, help: "Path to a fifo or a file for the metrics."},
		{name: "version", on: &f.version, help: "Print the version."},
		{name: "help", on: &f.help, help: "Print this help."},
		{name: "boot-timer", ignored: ignoredAlone},
		{name: "no-seccomp", ignored: ignoredAlone},
		{name: "seccomp-filter", ignored: ignoredWithValue},
		{name: "start-time-us", ignored: ignoredWithValue},
		{name: "start-time-cpu-us", ignored: ignoredWithValue},
		{name: "parent-cpu-time-us", ignored: ignoredWithValue},
		{name: "http-api-max-payload-size", ignored: ignoredWithValue},
		{name: "mmds-size-limit", ignored: ignoredWithValue},
	}
}

// parseFlags reads args, which are without the program's name. A flag may be given as
// "--flag value" or, which Firecracker does not take, "--flag=value"; each only once.
func parseFlags(args []string) (flags, error) {
	f := flags{apiSock: "/run/firecracker.socket", id: "anonymous-instance", level: "Info"}
	table := f.table()
	given := make(map[string]bool)
	for i := 0; i < len(args); i++ {
		name, value, hasValue := strings.Cut(args[i], "=")
		name, isFlag := strings.CutPrefix(name, "--")
		at := indexOf(table, name)
		if !isFlag || at < 0 {
			return f, fmt.Errorf("found argument '%.100s' which wasn't expected, or isn't valid in this context", args[i])
		}
		if given[name] {
			return f, fmt.Errorf("the argument '%s' was provided more than once", name)
		}
		given[name] = true
		entry := table[at]
		takesValue := entry.value != nil || entry.ignored == ignoredWithValue
		switch {
		case !takesValue && hasValue:
			return f, fmt.Errorf("the argument '%s' takes no value", name)
		case takesValue && !hasValue:
			if i++; i >= len(args) {
				return f, fmt.Errorf("the argument '%s' requires a value, but none was supplied", name)
			}
			value = args[i]
		}
		switch {
		case entry.value != nil:
			*entry.value = value
		case entry.on != nil:
			*entry.on = true
		default:
			f.ignored = append(f.ignored, "--"+name)
		}
	}
	if f.module != "" {
		f.ignored = append(f.ignored, "--module")
	}
	return f, f.check()
}

func indexOf(table []flag, name string) int {
	for i := range table {
		if table[i].name == name {
			return i
		}
	}
	return -1
}

func (f *flags) check() error {
	if f.noAPI && f.configFile == "" {
		return errors.New("argument 'config-file' required, but not found")
	}
	if len(f.id) < 1 || len(f.id) > 64 {
		return fmt.Errorf("invalid id: its length is %d, not 1 to 64", len(f.id))
	}
	for _, c := range f.id {
		if c != '-' && !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z') {
			return fmt.Errorf("invalid id: character %q", c)
		}
	}
	_, _, err := parseLevel(f.level)
	return err
}

func usage() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: Firecracker's API v%s over QEMU\n\n", appName, apiVersion)
	for _, entry := range new(flags).table() {
		if entry.ignored == heeded {
			fmt.Fprintf(&b, "  --%-16s %s\n", entry.name, entry.help)
		}
	}
	b.WriteString("\nFirecracker's other flags are accepted and have no effect.\n")
	return b.String()
}

// readBounded reads all of a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("read %s: longer than %d bytes", path, limit)
	}
	return b, err
}
