package cpio

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func sample(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out)
	err := errors.Join(
		w.Dir("dev", 0o755),
		w.Device("dev/console", 0o600, 5, 1),
		w.File("init", 0o755, 5, strings.NewReader("hello")),
		w.File("empty", 0o644, 0, nil),
		w.Close(),
	)
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestReaderReadsWhatWriterWrote(t *testing.T) {
	r := NewReader(bytes.NewReader(sample(t)))
	want := []Header{
		{"dev", ModeDir | 0o755, 0}, {"dev/console", ModeDevice | 0o600, 0},
		{"init", ModeFile | 0o755, 5}, {"empty", ModeFile | 0o644, 0},
	}
	var got []Header
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == "init" {
			if data, err := io.ReadAll(r); err != nil || string(data) != "hello" {
				t.Errorf("content is %q, error %v", data, err)
			}
		}
		got = append(got, h)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestCpioReadsWhatWriterWrote asks the program that the format is named after.
func TestCpioReadsWhatWriterWrote(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("no cpio")
	}
	cmd := exec.CommandContext(t.Context(), "cpio", "-tv", "--quiet", "--numeric-uid-gid")
	cmd.Stdin = bytes.NewReader(sample(t))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"drwxr-xr-x   2 0", "crw-------   1 0", "5,   1", "dev/console", "-rwxr-xr-x   1 0", "init"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("cpio does not list %q:\n%s", want, out)
		}
	}
}

func TestWriterKeepsItsError(t *testing.T) {
	w := NewWriter(io.Discard)
	if err := w.File("short", 0o644, 10, strings.NewReader("five!")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short content: error %v", err)
	}
	if err := w.Close(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("close after an error: %v", err)
	}
	if err := NewWriter(io.Discard).File("huge", 0o644, 1<<32, nil); err == nil {
		t.Error("4 GiB do not fit the format, but there is no error")
	}
}

func TestReaderRefuses(t *testing.T) {
	good := sample(t)
	long := bytes.Clone(good)
	copy(long[94:], "7fffffff") // the first name's length
	for name, data := range map[string][]byte{
		"nothing": nil, "text": bytes.Repeat([]byte("text "), 40), "cut off": good[:len(good)-200], "name of 2 GiB": long,
	} {
		r := NewReader(bytes.NewReader(data))
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got error %v, want %v", name, err, ErrMalformed)
		}
	}
}

// FuzzReader checks that no archive makes the reader panic or give more than it has.
func FuzzReader(f *testing.F) {
	f.Add(sample(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, total := NewReader(bytes.NewReader(data)), int64(0)
		for {
			if _, err := r.Next(); err != nil {
				break
			}
			n, err := io.Copy(io.Discard, r)
			if total += n; err != nil {
				break
			}
		}
		if total > int64(len(data)) {
			t.Errorf("%d bytes out of %d", total, len(data))
		}
	})
}
