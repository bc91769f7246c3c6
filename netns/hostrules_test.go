package netns

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
)

// Whatever is flushed on the host, and however often, its rules are there again.
func TestKeepHostRules(t *testing.T) {
	host, cfg := newHost(t)
	n := ensure(t, cfg)
	before := inventory(t, cfg)
	flush := func() {
		c, err := transaction(host)
		must(t, err)
		c.FlushRuleset()
		must(t, c.Flush())
	}

	flush() // before anybody watches
	gone := inventory(t, cfg)
	if cmp.Equal(before, gone) {
		t.Fatal("flushing changed nothing: this test cannot fail")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	repaired, ended := make(chan struct{}, 100), make(chan error, 1)
	keep := cfg
	keep.Prefix = n.Plan().Prefix()
	go func() { ended <- KeepHostRules(ctx, keep, func() { repaired <- struct{}{} }) }()
	for i := range 5 {
		select {
		case <-repaired:
		case err := <-ended:
			t.Fatalf("flush %d: the watch ended: %v", i, err)
		case <-time.After(10 * time.Second):
			t.Fatalf("flush %d: nothing was repaired", i)
		}
		if diff := cmp.Diff(before, inventory(t, cfg)); diff != "" {
			t.Errorf("flush %d: repair is not as before (-before +after):\n%s", i, diff)
		}
		flush()
	}
	<-repaired

	// What is somebody else's comes and goes without a word from us.
	c, err := transaction(host)
	must(t, err)
	other := c.AddTable(&nftables.Table{Name: "other", Family: nftables.TableFamilyINet})
	must(t, c.Flush())
	c.DelTable(other)
	must(t, c.Flush())
	time.Sleep(100 * time.Millisecond)
	if len(repaired) > 0 {
		t.Error("repaired what was there")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error("end the watch:", err)
	}
}
