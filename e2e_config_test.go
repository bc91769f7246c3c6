package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/personas/api"
	"banger/testdata/assets"
	"banger/testdata/host"
)

// TestConfiguration: what the owner has written decides what VMs get, at once and
// without a restart; what is wrong with it stops nothing but new VMs.
func TestConfiguration(t *testing.T) {
	kernel, image := assets.File(t, "linux-image-cloud.deb"), assets.File(t, "debian.tar")
	h := newHost(t, host.Config{})
	home := "/home/" + host.OwnerName
	config := home + "/.config/banger/config.toml"
	put := func(path, text string) {
		t.Helper()
		h.Must(host.Owner, "sh", "-c", `mkdir -p "$(dirname "$1")" && printf %s "$2" >"$1"`, "sh", path, text)
	}
	h.Must(host.Sudo, "banger", "kernel", "import", kernel)
	h.Must(host.Sudo, "banger", "image", "import", image)
	if got := h.Must(host.Owner, "banger", "config", "path"); got != config {
		t.Errorf("the configuration is %s, want %s", got, config)
	}
	put(home+"/.gitconfig", "[user]\n\tname = Alice\n")
	put(home+"/tree/a", "A")
	put(home+"/tree/deep/b", "B")
	put(config, `cpus = 1
memory = "192m"
net = "none"

[[file_sync]]
host = "~/.gitconfig"

[[file_sync]]
host = "~/tree"
guest = "~/.config/tree"
mode = "0640"

[[file_sync]]
host = "~/none"
`)
	var shown api.Settings
	if err := json.Unmarshal([]byte(h.Must(host.Owner, "banger", "config", "show", "--output", "json")), &shown); err != nil {
		t.Fatal(err)
	}
	for _, s := range shown.Values {
		if s.Key == "memory" && (s.Value != "192MiB" || s.Source != config+":2") {
			t.Errorf("memory: %+v", s)
		}
	}
	const look = `cat ~/.gitconfig; cd ~/.config/tree && cat a deep/b; stat -c '%a %U' ~/.gitconfig a deep .; nproc; ls /sys/class/net`
	want := "[user]\n\tname = Alice\nAB600 www-data\n640 www-data\n700 www-data\n700 www-data\n1\nlo\n"
	r := h.Run(host.Owner, "banger", "vm", "run", "--name", "web", "--user", "www-data", "--", "sh", "-c", look)
	if r.Code != 0 || r.Stdout != want {
		t.Errorf("%v\nwant: %s", r, want)
	}
	if !strings.Contains(r.Stderr, "file_sync[2]: ~/none is not there") {
		t.Errorf("nothing is said of a file that is not there: %s", r.Stderr)
	}
	// They come once: what the guest has made of them is the guest's.
	h.Must(host.Owner, "banger", "vm", "exec", "web", "--", "sh", "-c", "echo mine >~/.gitconfig")
	put(home+"/.gitconfig", "changed")
	h.Must(host.Owner, "banger", "vm", "restart", "web")
	if got := h.Must(host.Owner, "banger", "vm", "exec", "web", "--", "sh", "-c", "cat ~/.gitconfig"); got != "mine" {
		t.Errorf("the guest's file is %q after a restart", got)
	}

	// A flag comes before the file.
	if got := h.Must(host.Owner, "banger", "vm", "run", "--rm", "--cpus", "2", "--", "nproc"); got != "2" {
		t.Errorf("%s CPUs", got)
	}
	before := h.Must(host.Owner, "banger", "vm", "list", "--output", "json")
	refused := func(what, want string) {
		t.Helper()
		if r := h.Run(host.Owner, "banger", "vm", "run", "--name", "no", "--", "true"); r.Code != 125 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%s: %v\nwant %q", what, r, want)
		}
		if got := h.Must(host.Owner, "banger", "vm", "list", "--output", "json"); got != before {
			t.Errorf("%s: something is left: %s", what, got)
		}
	}
	// A link out of the home, laid where a guest could want it.
	secret := filepath.Join(h.Dir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.Must(host.Owner, "ln", "-s", secret, home+"/none")
	refused("a link that leaves the home", "file_sync[2]: open \"~/none\"")
	put(config, "memory = \"192m\"\nmemroy = \"1g\"\n[[file_sync]]\nhost = \"/etc/shadow\"\n")
	refused("a broken file", config+`:2: unknown key "memroy": did you mean "memory"?`)
	refused("a broken file", config+":4: file_sync[0].host: ")
	if r := h.Run(host.Owner, "banger", "config", "show"); r.Code != 125 || !strings.Contains(r.Stderr, "memroy") {
		t.Errorf("config show of a broken file: %v", r)
	}
	h.Must(host.Owner, "banger", "vm", "restart", "web") // nothing else minds
	h.Must(host.Owner, "banger", "vm", "delete", "--force", "web")
	// As much as may come, into a small guest.
	sum := h.Must(host.Owner, "sh", "-c", "cd && head -c 4000000 /dev/urandom >big && sha256sum <big")
	put(config, "[[file_sync]]\nhost = \"~/big\"\n")
	if got := h.Must(host.Owner, "banger", "vm", "run", "--rm", "--memory", "128m", "--", "sh", "-c", "sha256sum <~/big"); got != sum {
		t.Errorf("of a large file came %s, want %s", got, sum)
	}
}
