package personas

import "runtime/debug"

// Version, Commit and Built are set when the binary is linked; see the
// Makefile. Commit and Built are taken from the build's own record otherwise.
var (
	Version = "devel"
	Commit  = ""
	Built   = ""
)

// BuildInfo returns version, commit and time of the build, the latter two empty
// where they are not known.
func BuildInfo() (version, commit, built string) {
	version, commit, built = Version, Commit, Built
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version, commit, built
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && commit == "":
			commit = s.Value
		case s.Key == "vcs.time" && built == "":
			built = s.Value
		}
	}
	return version, commit, built
}
