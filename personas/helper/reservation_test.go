package helper

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"banger/ops"
)

func newTable(t testing.TB, dir string) *table {
	t.Helper()
	table, err := loadTable(dir, slog.New(slog.DiscardHandler))
	must(t, err)
	return table
}

func TestReserve(t *testing.T) {
	tb := newTable(t, t.TempDir())
	for want := range 3 {
		r, err := tb.reserve(fmt.Sprint("request-", want))
		must(t, err)
		if r.rec.Slot != want {
			t.Errorf("got slot %d, want %d", r.rec.Slot, want)
		}
	}
	first, err := tb.reserve("request-0")
	must(t, err)
	if first.rec.Slot != 0 || len(tb.all()) != 3 {
		t.Errorf("the same request got slot %d of %d", first.rec.Slot, len(tb.all()))
	}
	middle, err := tb.reserve("request-1")
	must(t, err)
	must(t, tb.forget(middle))
	again, err := tb.reserve("request-4")
	must(t, err)
	if again.rec.Slot != 3 || again.rec.Handle == middle.rec.Handle {
		t.Errorf("got slot %d and handle %s", again.rec.Slot, again.rec.Handle)
	}
	if _, err := tb.lock(t.Context(), middle.rec.Handle); err == nil {
		t.Error("a handle that was given up still names a VM")
	}
}

// A slot is not taken again while another one has been free for longer.
func TestSlotsRest(t *testing.T) {
	tb := newTable(t, t.TempDir())
	reserve := func(request string) *reservation {
		r, err := tb.reserve(request)
		must(t, err)
		return r
	}
	for i := range 2 * maxVMs { // one VM after the other
		r := reserve(fmt.Sprint("a", i))
		if want := i % maxVMs; r.rec.Slot != want {
			t.Fatalf("VM %d got slot %d, want %d", i, r.rec.Slot, want)
		}
		must(t, tb.forget(r))
	}
	all := make(map[int]*reservation)
	for i := range maxVMs {
		r := reserve(fmt.Sprint("b", i))
		all[r.rec.Slot] = r
	}
	for _, slot := range []int{7, 3, 5} {
		must(t, tb.forget(all[slot]))
	}
	for i, want := range []int{7, 3, 5} {
		if r := reserve(fmt.Sprint("c", i)); r.rec.Slot != want {
			t.Errorf("got slot %d, want %d", r.rec.Slot, want)
		}
	}
}

// A26: the 257th is refused, by kind, and nothing of it is left.
func TestReserveIsLimited(t *testing.T) {
	dir := t.TempDir()
	tb := newTable(t, dir)
	var wg sync.WaitGroup
	var mu sync.Mutex
	slots, refused := make(map[int]bool), 0
	for i := range maxVMs + 10 {
		wg.Go(func() {
			r, err := tb.reserve(fmt.Sprint("request-", i))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				wantCode(t, err, ops.Limit)
				refused++
				return
			}
			if slots[r.rec.Slot] {
				t.Errorf("slot %d twice", r.rec.Slot)
			}
			slots[r.rec.Slot] = true
		})
	}
	wg.Wait()
	if len(slots) != maxVMs || refused != 10 || len(list(t, dir)) != maxVMs {
		t.Errorf("%d reserved, %d refused, %d files", len(slots), refused, len(list(t, dir)))
	}
}

// A23: a new helper answers a request again as the former one did.
func TestReservationsOutliveTheHelper(t *testing.T) {
	dir := t.TempDir()
	tb := newTable(t, dir)
	a, err := tb.reserve("a")
	must(t, err)
	disk := claim{inode{1, 2}, false}
	a.rec.Start, a.rec.Net, a.rec.Disks = "start-1", ops.NetFull, []claim{disk}
	must(t, tb.save(a))
	tb = newTable(t, dir)
	b, err := tb.reserve("a")
	must(t, err)
	if fmt.Sprint(b.rec) != fmt.Sprint(a.rec) {
		t.Errorf("loaded %+v, saved %+v", b.rec, a.rec)
	}
	if len(tb.claims[disk.inode]) != 1 {
		t.Errorf("claims are %v", tb.claims)
	}
}

// What a crash left, or a bad disk made, must not keep the helper from starting.
func TestDamagedReservationsAreRemoved(t *testing.T) {
	dir := t.TempDir()
	tb := newTable(t, dir)
	good, err := tb.reserve("good")
	must(t, err)
	handle := strings.Repeat("0", 32)
	for name, content := range map[string]string{
		"00000001.json":     `{"handle":"` + handle,
		"00000002.json":     `{}`,
		"00000003.json":     `{"handle":"` + handle + `","id":"00000004","slot":9}`,
		"00000005.json":     `{"handle":"` + handle + `","id":"00000005","slot":256}`,
		"00000006.json":     `{"handle":"` + good.rec.Handle + `","id":"00000006","slot":7}`,
		"00000007.json":     `{"handle":"` + handle + `","id":"00000007","slot":0}`,
		"00000008.json":     ``,
		"00000009.json.tmp": `{"handle":"`,
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	// Which of two that claim one thing is the right one cannot be told; that
	// one is left of them, can.
	tb = newTable(t, dir)
	if n := len(tb.all()); n < 1 || n > 3 || n != len(list(t, dir)) {
		t.Errorf("%d reservations, files %v", n, list(t, dir))
	}
	for _, r := range tb.all() {
		if err := r.rec.check(); err != nil || tb.slots[r.rec.Slot] != r || tb.handles[r.rec.Handle] != r {
			t.Errorf("loaded %+v: %v", r.rec, err)
		}
	}
}

func TestClaims(t *testing.T) {
	tb := newTable(t, t.TempDir())
	vm := func(name string) *reservation {
		r, err := tb.reserve(name)
		must(t, err)
		return r
	}
	writes, reads := file{inode: inode{1, 1}}, file{inode: inode{1, 1}, readOnly: true}
	other := file{inode: inode{1, 2}}
	a, b := vm("a"), vm("b")
	// A21: the same file twice.
	wantCode(t, tb.claim(a, []file{writes, writes}), ops.Invalid)
	wantCode(t, tb.claim(a, []file{reads, writes}), ops.Invalid)
	if len(tb.claims) > 0 || a.rec.Disks != nil {
		t.Fatalf("a refused claim left %v", tb.claims)
	}
	must(t, tb.claim(a, []file{writes, other}))
	wantCode(t, tb.claim(b, []file{writes}), ops.Conflict)
	wantCode(t, tb.claim(b, []file{reads}), ops.Conflict)
	tb.unclaim(a)
	must(t, tb.claim(a, []file{reads}))
	must(t, tb.claim(b, []file{reads, other})) // an image is shared
	c := vm("c")
	wantCode(t, tb.claim(c, []file{writes}), ops.Conflict)
	tb.unclaim(a)
	wantCode(t, tb.claim(c, []file{writes}), ops.Conflict) // b still reads
	tb.unclaim(b)
	must(t, tb.claim(c, []file{writes}))
	tb.unclaim(c)
	if len(tb.claims) > 0 {
		t.Errorf("claims are left: %v", tb.claims)
	}
}
