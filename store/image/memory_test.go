package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"banger/store/ext4/ext4test"
)

// importerEnv makes the test program one that only imports: its peak memory is what counts.
const importerEnv = "BANGER_TEST_IMPORT"

func TestMain(m *testing.M) {
	if src := os.Getenv(importerEnv); src != "" {
		importAlone(src)
		return
	}
	ext4test.Main(m)
}

// importAlone imports the file at path and prints the most memory that the process ever had.
func importAlone(path string) {
	f, err := os.Open(path)
	if err != nil {
		panic(err)
	}
	src, err := FromFile(f)
	if err != nil {
		panic(err)
	}
	if _, err := Import(context.Background(), src, path+".ext4", Options{Limits: Limits{Ratio: 2000}}); err != nil {
		panic(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM:") {
			fmt.Print(line)
		}
	}
}

// TestMemory imports many files, gzipped, and a large one, in processes of their own.
func TestMemory(t *testing.T) {
	if raceDetector() {
		t.Skip("the race detector's own memory is several times the import's")
	}
	if testing.Short() { // as under the race detector, whose own memory would count
		t.Skip("memory is not measured in short mode")
	}
	for name, fill := range map[string]func(w *tar.Writer){
		"100,000 files": func(w *tar.Writer) {
			for i := range 100_000 {
				w.WriteHeader(&tar.Header{Name: fmt.Sprintf("dir%d/some-file-name-%d", i/50, i), Mode: 0o644, Size: 5})
				w.Write([]byte("bytes"))
			}
		},
		"1 GiB of zeroes and noise": func(w *tar.Writer) {
			w.WriteHeader(&tar.Header{Name: "large", Mode: 0o644, Size: 1 << 30})
			p := make([]byte, 1<<20)
			for i := range 1024 {
				p[0], p[5000], p[500000] = byte(i), byte(i), byte(i)
				w.Write(p)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "tar.gz")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			b := bufio.NewWriterSize(f, 1<<20)
			z, _ := gzip.NewWriterLevel(b, 1)
			w := tar.NewWriter(z)
			fill(w)
			w.Close()
			z.Close()
			b.Flush()
			f.Close()
			if got := peakMiB(t, path); got > 64 {
				t.Errorf("peak %d MiB", got)
			} else {
				t.Logf("peak %d MiB", got)
			}
		})
	}
}

// peakMiB is the peak memory of a process that imports path.
func peakMiB(t testing.TB, path string) int {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), importerEnv+"="+path)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("import: %v\n%s", err, stderr.String())
	}
	var kib int
	if _, err := fmt.Sscanf(string(out), "VmHWM: %d kB", &kib); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	return kib >> 10
}

// raceDetector tells whether this program was built with -race.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}
