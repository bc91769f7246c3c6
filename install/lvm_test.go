package install

import (
	"strings"
	"testing"

	"banger/install/doctor"
)

func TestJudgeLVM(t *testing.T) {
	const all = "global_filter=[\"a|.*|\"]\nfilter=[\"a|.*|\"]\n"
	for name, c := range map[string]struct {
		settings string
		list     bool
		want     doctor.Status
	}{
		"as Debian has it": {all + "use_devicesfile=0\n", false, doctor.Warn},
		"a list":           {all + "use_devicesfile=1\n", true, doctor.OK},
		"no list yet":      {all + "use_devicesfile=1\n", false, doctor.Warn},
		"a list, unused":   {all + "use_devicesfile=0\n", true, doctor.Warn},
		"mapper alone":     {"global_filter=[\"r|^/dev/mapper/banger-|\"]\n", false, doctor.Warn},
		"accepted":         {"global_filter=[\"a|^/dev/mapper/banger-|\",\"a|^/dev/loop|\"]\n", false, doctor.Warn},
		"as the hint says": {"global_filter=[\"r|^/dev/mapper/banger-|\",\"r|^/dev/loop|\"]\nfilter=[\"a|.*|\"]\nuse_devicesfile=0\n", false, doctor.OK},
	} {
		got := judgeLVM(c.settings, c.list)
		if got.Status != c.want || (got.Hint == "") != (got.Status == doctor.OK) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if !strings.Contains(lvmHint, "/dev/mapper/banger-") {
		t.Error("the hint names other devices")
	}
}
