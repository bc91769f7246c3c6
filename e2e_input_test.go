package main_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/testdata/assets"
	"banger/testdata/host"
)

// TestBadFlags: what can never succeed is refused at the edge, with exit code 2
// and words that name what is wrong, and leaves no row behind.
func TestBadFlags(t *testing.T) {
	h := bootHost(t)
	for _, args := range []string{
		"--cpus 0", "--cpus -1", "--cpus 33", "--cpus two", "--cpus 1.5", "--cpus 99999999999999999999",
		"--memory 0", "--memory -1", "--memory 512", "--memory 512x", "--memory 1m", "--memory 9999p", "--memory=",
		"--disk 0", "--disk -5g", "--disk 1k", "--disk 99999999t", "--disk ten",
		"--name UPPER", "--name -x", "--name a/b", "--name ../a", "--name a.b", "--name a_b",
		"--name aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "--name x-",
		"--net everything", "--net=", "--init systemd", "--init=", "--vmm bochs", "--vmm=", "--backend zfs", "--backend=",
		"--env NOVALUE", "--env =x", "--workdir relative", "--user a:b:c", "--user :", "--user a:", "--user 2147483648",
		"--output yaml", "--no-such-flag",
	} {
		for _, verb := range []string{"run", "create"} {
			argv := append([]string{"banger", "vm", verb}, strings.Fields(args)...)
			if verb == "run" {
				argv = append(argv, "--", "true")
			}
			r := h.Run(host.Root, argv...)
			if r.Code != 2 || !strings.HasPrefix(r.Stderr, "banger: ") || r.Stdout != "" {
				t.Errorf("%s: %v", strings.Join(argv[1:], " "), r)
			}
		}
	}
	for _, argv := range [][]string{
		{}, {"vm"}, {"vm", "show"}, {"vm", "show", "a", "b"}, {"vm", "delete"}, {"vm", "start"}, {"vm", "exec"}, {"vm", "cp"}, {"vm", "cp", "a"},
		{"vm", "cp", "a", "b"}, {"vm", "stop", "--timeout", "-1s", "a"}, {"vm", "stop", "--timeout", "soon", "a"},
		{"image", "import"}, {"image", "import", "--name", "UPPER", "/dev/null"}, {"kernel", "import"}, {"kernel", "import", "--name", "a/b", "/dev/null"},
		{"completion", "powershell"}, {"no-such-noun"}, {"vm", "run", "--rm", "-d", "-t", "--", "true"},
	} {
		r := h.Run(host.Root, append([]string{"banger"}, argv...)...)
		if r.Code != 2 {
			t.Errorf("%s: %v", strings.Join(argv, " "), r)
		}
	}
}

// TestBadImages: content that is refused leaves nothing in the catalogue and
// nothing on disk, and the error says what was wrong.
func TestBadImages(t *testing.T) {
	h := bootHost(t)
	dir := h.Dir()
	good, err := os.ReadFile(assets.File(t, "debian.tar"))
	if err != nil {
		t.Fatal(err)
	}
	corrupt := append([]byte(nil), good[:8<<20]...)
	copy(corrupt[4<<20:], strings.Repeat("\xff", 1<<20))
	for name, content := range map[string][]byte{
		"empty.tar":     nil,
		"text.tar":      []byte("this is no archive\n"),
		"zeros.tar":     make([]byte, 10240), // an archive of nothing
		"cut.tar":       good[:8<<20],
		"corrupt.tar":   corrupt,
		"cut.tar.gz":    gzipped(t, good[:1<<20])[:100<<10],
		"no-layers.tar": tarOf(t, tarFile{"manifest.json", `[{"Config":"c.json","Layers":[]}]`}, tarFile{"c.json", `{}`}),
	} {
		writeFile(t, filepath.Join(dir, name), content)
	}
	writeBomb(t, filepath.Join(dir, "bomb.tar.gz"))
	writeFile(t, filepath.Join(dir, "deep.tar"), tarOf(t, tarFile{strings.Repeat("d/", 40000) + "f", "x"}))

	before := h.Must(host.Root, "find", "/var/lib/banger")
	for _, name := range []string{
		"empty.tar", "text.tar", "zeros.tar", "cut.tar", "corrupt.tar", "cut.tar.gz", "no-layers.tar", "bomb.tar.gz", "deep.tar", "not-there.tar",
	} {
		r := h.Run(host.Root, "banger", "image", "import", filepath.Join(dir, name))
		if r.Code != 125 && !(r.Code == 2 && name == "not-there.tar") || !strings.HasPrefix(lastError(r.Stderr), "banger: ") {
			t.Errorf("%s: %v", name, r)
		}
		t.Logf("%s: %s", name, lastError(r.Stderr))
	}
	if after := h.Must(host.Root, "find", "/var/lib/banger"); after != before {
		t.Errorf("files are left: %v", host.Difference(strings.Fields(before), strings.Fields(after)))
	}
	if got := h.Must(host.Root, "banger", "image", "list", "--quiet"); got != "debian" {
		t.Errorf("images are %q", got)
	}
}

// TestBadKernels is the same for kernels.
func TestBadKernels(t *testing.T) {
	h := bootHost(t)
	dir := h.Dir()
	deb, err := os.ReadFile(assets.File(t, "linux-image-cloud.deb"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"empty":    nil,
		"text":     []byte("this is no kernel\n"),
		"cut.deb":  deb[:1<<20],
		"zeros":    make([]byte, 1<<20),
		"text.deb": []byte("!<arch>\nthis is no package\n"),
	} {
		writeFile(t, filepath.Join(dir, name), content)
	}
	before := h.Must(host.Root, "find", "/var/lib/banger")
	for _, file := range []string{
		filepath.Join(dir, "empty"), filepath.Join(dir, "text"), filepath.Join(dir, "cut.deb"), filepath.Join(dir, "zeros"),
		filepath.Join(dir, "text.deb"), "/bin/ls",
	} {
		r := h.Run(host.Root, "banger", "kernel", "import", "--name", "bad", file)
		if r.Code != 125 || !strings.HasPrefix(lastError(r.Stderr), "banger: ") || !strings.Contains(r.Stderr, filepath.Base(file)) {
			t.Errorf("%s: %v", file, r)
		}
		t.Logf("%s: %s", filepath.Base(file), lastError(r.Stderr))
	}
	// What root may read and the owner may not is called by its name too.
	private := filepath.Join(dir, "private")
	if err := errors.Join(os.Mkdir(private, 0o700), os.Mkdir(filepath.Join(private, "usr"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"kernel", "import", "--name", "bad", "--modules", private, "/bin/ls"}, {"image", "import", "--name", "bad", private},
	} {
		r := h.Run(host.Root, append([]string{"banger"}, args...)...)
		if r.Code != 125 || !strings.Contains(r.Stderr, private+": permission denied") || strings.Contains(r.Stderr, "/proc/") {
			t.Errorf("%q: %v", args, r)
		}
	}
	if after := h.Must(host.Root, "find", "/var/lib/banger"); after != before {
		t.Errorf("files are left: %v", host.Difference(strings.Fields(before), strings.Fields(after)))
	}
	if got := h.Must(host.Root, "banger", "kernel", "list", "--quiet"); got != "debian" {
		t.Errorf("kernels are %q", got)
	}
}

// TestFullDisk: out of space is an ordinary error that leaves nothing.
func TestFullDisk(t *testing.T) {
	t.Run("at import", func(t *testing.T) {
		h := newHost(t, host.Config{StateFS: "ext4", StateMiB: 100})
		h.Must(host.Root, "banger", "image", "list")
		free := freeBlocks(h)
		r := h.Run(host.Root, "banger", "image", "import", assets.File(t, "debian.tar"))
		if r.Code != 125 || !strings.Contains(r.Stderr, "space") || !strings.Contains(r.Stderr, "hint: ") {
			t.Errorf("import: %v", r)
		}
		if got := h.Must(host.Root, "banger", "image", "list", "--output", "json"); got != "[]" {
			t.Errorf("images are %s", got)
		}
		if got := freeBlocks(h); got != free {
			t.Errorf("%s blocks are free, were %s", got, free)
		}
	})
	t.Run("at create", func(t *testing.T) {
		h := newHost(t, host.Config{StateFS: "ext4", StateMiB: 800, Seed: seed(t)})
		h.Must(host.Root, "banger", "image", "list")
		h.Must(host.Root, "sh", "-c", "fallocate -l $(( $(stat -f -c '%a * %S' /var/lib) - (20 << 20) )) /var/lib/filler && sync")
		r := h.Run(host.Root, "banger", "vm", "create", "--backend", "copy", "--name", "web")
		if r.Code != 125 || !strings.Contains(r.Stderr, "space") || !strings.Contains(r.Stderr, "hint: ") {
			t.Errorf("create: %v", r)
		}
		if got := h.Must(host.Root, "banger", "vm", "list", "--output", "json"); got != "[]" {
			t.Errorf("VMs are %s", got)
		}
		// With room again the same command works.
		h.Must(host.Root, "rm", "/var/lib/filler")
		h.Must(host.Root, "banger", "vm", "create", "--backend", "copy", "--name", "web")
		h.Must(host.Root, "banger", "vm", "delete", "web")
	})
}

func freeBlocks(h *host.Host) string {
	return h.Must(host.Root, "sh", "-c", "sync; stat -f -c %f /var/lib")
}

// TestBackends boots a VM by each way to make a disk, where it must work.
func TestBackends(t *testing.T) {
	for _, c := range []struct{ fs, backend, auto string }{
		{"ext4", "overlay", "overlay"},
		{"ext4", "copy", ""},
		{"xfs", "reflink", "reflink"},
		{"btrfs", "reflink", "reflink"},
	} {
		t.Run(c.backend+" on "+c.fs, func(t *testing.T) {
			h := newHost(t, host.Config{StateFS: c.fs, StateMiB: 1500, Seed: seed(t)})
			// Without an installation the host's scanners would see it.
			if r := h.Run(host.Root, "banger", "vm", "create", "--backend", "snapshot", "--name", "web"); r.Code != 2 || !strings.Contains(r.Stderr, "udev rule") {
				t.Errorf("a snapshot: %v", r)
			}
			h.Must(host.Root, "banger", "vm", "create", "--backend", c.backend, "--name", "web")
			if got := h.Must(host.Root, "banger", "vm", "show", "web"); !strings.Contains(got, c.backend) {
				t.Errorf("want %s:\n%s", c.backend, got)
			}
			h.Must(host.Root, "banger", "vm", "start", "web")
			h.Must(host.Root, "banger", "vm", "exec", "web", "--", "sh", "-c", "rm /etc/issue && echo new >/etc/new && sync")
			h.Must(host.Root, "banger", "vm", "restart", "web")
			h.Must(host.Root, "banger", "vm", "exec", "web", "--", "sh", "-c", "! test -e /etc/issue && grep -q new /etc/new")
			h.Must(host.Root, "banger", "vm", "delete", "--force", "web")
			if c.auto != "" {
				h.Must(host.Root, "banger", "vm", "create", "--name", "auto")
				if got := h.Must(host.Root, "banger", "vm", "show", "auto"); !strings.Contains(got, c.auto) {
					t.Errorf("want %s by itself:\n%s", c.auto, got)
				}
				h.Must(host.Root, "banger", "vm", "delete", "auto")
			}
		})
	}
}

// lastError returns the line that says what went wrong.
func lastError(stderr string) string {
	last := ""
	for line := range strings.Lines(stderr) {
		if strings.HasPrefix(line, "banger: ") {
			last = strings.TrimSpace(line)
		}
	}
	return last
}

type tarFile struct{ name, content string }

func tarOf(t *testing.T, files ...tarFile) []byte {
	t.Helper()
	var b strings.Builder
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.content))}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, f.content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return []byte(b.String())
}

func gzipped(t *testing.T, content []byte) []byte {
	t.Helper()
	var b strings.Builder
	w := gzip.NewWriter(&b)
	w.Write(content)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return []byte(b.String())
}

func writeFile(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// writeBomb writes an archive of some megabytes that unpacks to very many. Gzip
// members after one another are one stream, so that zeros are packed once.
func writeBomb(t *testing.T, file string) {
	t.Helper()
	const each, files = 4, 3 // GiB
	zeros := gzipped(t, make([]byte, 1<<30))
	var bomb []byte
	for i := range files {
		var header bytes.Buffer
		if err := tar.NewWriter(&header).WriteHeader(&tar.Header{Name: string(rune('a' + i)), Mode: 0o644, Size: each << 30}); err != nil {
			t.Fatal(err)
		}
		bomb = append(bomb, gzipped(t, header.Bytes())...)
		bomb = append(bomb, bytes.Repeat(zeros, each)...)
	}
	writeFile(t, file, append(bomb, gzipped(t, make([]byte, 1024))...))
}
