package netns

import (
	"errors"
	"net/netip"
	"testing"
)

func TestPlan(t *testing.T) {
	p, err := NewPlan(netip.MustParsePrefix("10.87.0.0/16"))
	must(t, err)
	for _, tt := range []struct{ what, got, want string }{
		{"gateway", p.Gateway().String(), "10.87.0.1"},
		{"first guest", p.Guest(0).String(), "10.87.0.2"},
		{"guest 254", p.Guest(254).String(), "10.87.1.0"},
		{"last guest", p.Guest(Slots - 1).String(), "10.87.16.1"},
		{"hardware address", p.MAC(0).String(), "06:00:0a:57:00:02"},
		{"link", p.Link().String(), "10.87.0.0/17"},
		{"host's end", p.UplinkHost().String(), "10.87.255.253"},
		{"inner end", p.UplinkInside().String(), "10.87.255.254"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.what, tt.got, tt.want)
		}
	}
	if !p.Link().Contains(p.Guest(Slots-1)) || p.Link().Contains(p.UplinkHost()) {
		t.Error("the link must hold all guests, and not the uplink")
	}
}

func TestNewPlanRefuses(t *testing.T) {
	for _, prefix := range []string{"10.87.0.0/24", "10.87.0.1/16", "8.8.0.0/16", "100.64.0.0/16", "fd00::/16", "127.0.0.0/16"} {
		if p, err := NewPlan(netip.MustParsePrefix(prefix)); err == nil {
			t.Errorf("%s: accepted as %v", prefix, p)
		}
	}
	if _, err := NewPlan(netip.Prefix{}); err == nil {
		t.Error("the zero prefix was accepted")
	}
}

func TestChoosePlan(t *testing.T) {
	tests := []struct {
		name  string
		taken []string
		want  string // empty: none is free
	}{
		{"nothing taken takes the first", nil, "10.203.0.0/16"},
		{"default route is no obstacle", []string{"0.0.0.0/0"}, "10.203.0.0/16"},
		{"route inside a candidate excludes it", []string{"10.203.7.0/24"}, "10.240.0.0/16"},
		{"address inside a candidate excludes it", []string{"10.203.7.9/32"}, "10.240.0.0/16"},
		{"route over 10/8 leads to 172.16/12", []string{"10.0.0.0/8"}, "172.31.0.0/16"},
		{"a VPN's default route in halves is no obstacle", []string{"0.0.0.0/1", "128.0.0.0/1"}, "10.203.0.0/16"},
		{"everything private taken leads to 198.18/15", []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}, "198.18.0.0/16"},
		{"all taken", []string{"10.0.0.0/8", "172.16.0.0/12", "198.18.0.0/15"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var taken []netip.Prefix
			for _, p := range tt.taken {
				taken = append(taken, netip.MustParsePrefix(p))
			}
			p, err := ChoosePlan(taken)
			if tt.want == "" {
				if !errors.Is(err, ErrNoPlan) {
					t.Fatalf("got %v, %v, want ErrNoPlan", p.Prefix(), err)
				}
				return
			}
			must(t, err)
			if p.Prefix().String() != tt.want {
				t.Errorf("got %s, want %s", p.Prefix(), tt.want)
			}
		})
	}
}

func TestCandidatesAreAllDifferentAndValid(t *testing.T) {
	seen := make(map[netip.Prefix]bool)
	for _, c := range candidates() {
		if _, err := NewPlan(c); err != nil || seen[c] {
			t.Errorf("candidate %s: seen before %v, %v", c, seen[c], err)
		}
		seen[c] = true
	}
	if len(seen) != 256+16+2 {
		t.Errorf("%d candidates, want 274", len(seen))
	}
}
