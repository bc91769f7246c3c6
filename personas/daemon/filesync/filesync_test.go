package filesync

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/personas/guest/link"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		host, guest, mode string
		want              Entry
		bad               string // the field that is wrong
	}{
		{host: "~/.gitconfig", want: Entry{".gitconfig", ".gitconfig", 0o600}},
		{host: ".config/nvim/", guest: "~/nvim", mode: "644", want: Entry{".config/nvim", "nvim", 0o644}},
		{host: "a/../b", guest: "./c", mode: "0400", want: Entry{"b", "c", 0o400}},
		{bad: "host"},
		{host: "/etc/passwd", bad: "host"},
		{host: "~//etc/passwd", bad: "host"},
		{host: "~", bad: "host"},
		{host: "~/", bad: "host"},
		{host: ".", bad: "host"},
		{host: "~/../bob/x", bad: "host"},
		{host: "a/../../x", bad: "host"},
		{host: "~bob/x", bad: "host"},
		{host: "a\x00b", bad: "host"},
		{host: strings.Repeat("x", maxPath+1), bad: "host"},
		{host: "a", guest: "/root/a", bad: "guest"},
		{host: "a", guest: "../a", bad: "guest"},
		{host: "a", mode: "0o600", bad: "mode"},
		{host: "a", mode: "u=rw", bad: "mode"},
		{host: "a", mode: "4755", bad: "mode"},
		{host: "a", mode: "800", bad: "mode"},
	} {
		got, err := Parse(c.host, c.guest, c.mode)
		var field *FieldError
		if errors.As(err, &field); c.bad == "" && (err != nil || got != c.want) || c.bad != "" && (field == nil || field.Field != c.bad) {
			t.Errorf("Parse(%q, %q, %q) = %+v, %v; want %+v, bad %q", c.host, c.guest, c.mode, got, err, c.want, c.bad)
		}
	}
}

// home makes a home with the files, where "-> x" is a link to x.
func home(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if target, ok := strings.CutPrefix(text, "-> "); ok && err == nil {
			err = os.Symlink(target, path)
		} else if err == nil {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func told(files []link.File) []string {
	var list []string
	for _, f := range files {
		list = append(list, fmt.Sprintf("%s %o %s", f.Path, f.Mode, f.Data))
	}
	return list
}

func TestRead(t *testing.T) {
	dir := home(t, map[string]string{
		".gitconfig": "git", "conf/a": "A", "conf/deep/b": "B", "conf/link": "-> ../.gitconfig", "linked": "-> conf/deep",
	})
	sock, err := net.Listen("unix", filepath.Join(dir, "conf/s"))
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	files, missing, err := Read(dir, []Entry{
		{".gitconfig", ".gitconfig", 0o600}, {"none", "none", 0o600}, {"conf", ".config/x", 0o644}, {"linked", "l", 0o400},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"~/.gitconfig 600 git", "~/.config/x/a 644 A", "~/.config/x/deep/b 644 B", "~/.config/x/link 644 git", "~/l/b 400 B",
	}
	if got := told(files); !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	if !slices.Equal(missing, []int{1}) {
		t.Errorf("missing %v", missing)
	}
	for _, f := range files {
		if err := (link.BootConfig{Disk: link.Disk{Device: "vda"}, Files: []link.File{f}}).Validate(); err != nil {
			t.Error(err)
		}
	}
}

func TestReadStaysInTheHome(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	rel, err := filepath.Rel(t.TempDir(), outside) // as deep as a home of this test
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		files map[string]string
		entry string
	}{
		"absolute link":            {map[string]string{"x": "-> " + outside}, "x"},
		"relative link":            {map[string]string{"x": "-> " + rel}, "x"},
		"link on the way":          {map[string]string{"d": "-> " + filepath.Dir(outside)}, "d/secret"},
		"link in a directory":      {map[string]string{"d/x": "-> " + outside}, "d"},
		"link to a link":           {map[string]string{"a": "-> b", "b": "-> " + outside}, "a"},
		"magic link":               {map[string]string{"x": "-> /proc/self/root/etc/passwd"}, "x"},
		"link to itself":           {map[string]string{"x": "-> x"}, "x"},
		"directories in a circle":  {map[string]string{"d/e/f": "-> ../../d"}, "d"},
		"link that leads nowhere":  {map[string]string{"d/x": "-> none"}, "d"},
		"file where a directory":   {map[string]string{"f": "text"}, "f/x"},
		"more than there may be":   {map[string]string{"f": strings.Repeat("x", maxBytes+1)}, "f"},
		"more than there may be 2": {map[string]string{"d/f": strings.Repeat("x", maxBytes-100), "d/g": strings.Repeat("x", 100)}, "d"},
		"name that is no text":     {map[string]string{"d/\xff": "x"}, "d"},
	} {
		t.Run(name, func(t *testing.T) {
			files, missing, err := Read(home(t, c.files), []Entry{{"none", "none", 0o600}, {c.entry, "x", 0o600}})
			if err == nil || len(files) > 0 || len(missing) > 0 {
				t.Fatalf("files %.100q, missing %v, %v", told(files), missing, err)
			}
			if !strings.HasPrefix(err.Error(), "file_sync[1]: ") || !strings.Contains(err.Error(), "~/"+strings.Split(c.entry, "/")[0]) {
				t.Errorf("the error does not name the entry: %v", err)
			}
		})
	}
}

func TestReadTakesOnlyFiles(t *testing.T) {
	dir := home(t, map[string]string{"d/x": "x"})
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "d/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, entry := range []string{"fifo", "d"} {
		if _, _, err := Read(dir, []Entry{{entry, "x", 0o600}}); err == nil {
			t.Errorf("%s was read", entry)
		}
	}
	if os.Geteuid() == 0 {
		return // may read everything
	}
	if err := os.Chmod(filepath.Join(dir, "d/x"), 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Read(dir, []Entry{{"d/x", "x", 0o600}}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a file that is forbidden: %v", err)
	}
}

func TestReadCountsFiles(t *testing.T) {
	dir := t.TempDir()
	for i := range maxFiles + 1 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := Read(filepath.Dir(dir), []Entry{{filepath.Base(dir), "x", 0o600}}); err == nil {
		t.Error("all of them were read")
	}
}

// Links make many ways to few directories, and each way counts.
func TestReadCountsDirectories(t *testing.T) {
	dir := t.TempDir()
	const levels = 14
	for i := range levels {
		level := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(level, 0o700); err != nil {
			t.Fatal(err)
		}
		if i == levels-1 {
			break
		}
		for _, name := range []string{"a", "b"} {
			if err := os.Symlink(fmt.Sprint("../", i+1), filepath.Join(level, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, _, err := Read(dir, []Entry{{"0", "x", 0o600}}); err == nil || !strings.Contains(err.Error(), "more than 1000") {
		t.Errorf("%d levels of two links each: %v", levels, err)
	}
}

// Whatever Read lets through, a boot configuration can carry.
func TestReadFitsIntoBoot(t *testing.T) {
	dir := t.TempDir()
	long := "d/" + strings.Repeat(strings.Repeat("<", 250)+"/", 2)
	if err := os.MkdirAll(filepath.Join(dir, long), 0o700); err != nil {
		t.Fatal(err)
	}
	read := func() ([]link.File, error) {
		files, _, err := Read(dir, []Entry{{"d", "d", 0o600}})
		return files, err
	}
	write := func(i int) {
		name := filepath.Join(dir, long, fmt.Sprintf("%03d", i)+strings.Repeat("<", 240))
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cost := 6 * len("~/"+long+"000"+strings.Repeat("<", 240))
	for i := range maxBytes / cost {
		write(i)
	}
	files, err := read()
	if err != nil || len(files) < 500 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	write(maxBytes/cost + 1)
	if _, err := read(); err == nil {
		t.Error("one more was read")
	}
	a, b := net.Pipe()
	go io.Copy(io.Discard, b)
	if err := link.SendBoot(t.Context(), a, link.BootConfig{Disk: link.Disk{Device: "vda"}, Files: files}); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "d")); err != nil {
		t.Fatal(err)
	}
	dir = home(t, map[string]string{"d/x": strings.Repeat("x", maxBytes-6*len("~/d/x"))})
	files, err = read()
	if err != nil || len(files) != 1 {
		t.Fatal(err)
	}
	if err := link.SendBoot(t.Context(), a, link.BootConfig{Disk: link.Disk{Device: "vda"}, Files: files}); err != nil {
		t.Error(err)
	}
}

// A link and a file that change places while they are read: never what the link
// leads to.
func TestReadAgainstExchange(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := home(t, map[string]string{"d/x": "mine", "e": "-> " + filepath.Dir(outside), "y": "-> " + outside})
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
			}
			unix.Renameat2(unix.AT_FDCWD, dir+"/d/x", unix.AT_FDCWD, dir+"/y", unix.RENAME_EXCHANGE)
			unix.Renameat2(unix.AT_FDCWD, dir+"/d", unix.AT_FDCWD, dir+"/e", unix.RENAME_EXCHANGE)
		}
	}()
	read := 0
	for range 10_000 {
		files, _, _ := Read(dir, []Entry{{"d/x", "x", 0o600}})
		for _, f := range files {
			read++
			if string(f.Data) != "mine" {
				t.Fatalf("read %q", f.Data)
			}
		}
	}
	close(done)
	<-ended
	if read == 0 {
		t.Error("nothing was ever read: the test shows nothing")
	}
}
