package agent

import (
	"os"
	"path/filepath"
	"strings"
)

// defaultPath is what Debian's login and Docker give root.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is what a login gives, under what the image says, under what the
// client says.
func environment(who identity, tty bool, image, asked []string) []string {
	env := []string{
		"PATH=" + defaultPath, "HOME=" + who.home, "USER=" + who.name, "LOGNAME=" + who.name,
		"SHELL=" + who.shell,
	}
	if tty {
		env = append(env, "TERM=xterm")
	}
	for _, e := range append(append([]string(nil), image...), asked...) {
		env = setenv(env, e)
	}
	return env
}

// setenv adds "K=V", or puts it at the place of an older K.
func setenv(env []string, entry string) []string {
	key, _, _ := strings.Cut(entry, "=")
	for i, e := range env {
		if strings.HasPrefix(e, key+"=") {
			env[i] = entry
			return env
		}
	}
	return append(env, entry)
}

func getenv(env []string, key string) string {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, key+"="); ok {
			return v
		}
	}
	return ""
}

// candidates lists the files that name may mean, in the order of PATH. Relative
// ones begin at dir, as they would for a shell that stands there.
func candidates(name, dir, path string) []string {
	if strings.Contains(name, "/") {
		return []string{within(dir, name)}
	}
	var out []string
	for _, p := range filepath.SplitList(path) {
		file := within(dir, filepath.Join(p, name))
		// A directory is no command; execve would say EACCES for it.
		if info, err := os.Stat(file); err == nil && !info.IsDir() {
			out = append(out, file)
		}
	}
	return out
}

func within(dir, p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(dir, p)
}
