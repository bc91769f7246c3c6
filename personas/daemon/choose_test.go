package daemon

import (
	"errors"
	"testing"

	"banger/ops"
	"banger/personas/api"
	"banger/store"
	"banger/store/disk"
)

// What is asked for is what comes, or an error of usage; what is not asked for is the
// best that works.
func TestChooseBackend(t *testing.T) {
	const works, lacks = ops.SnapshotsWork, "no device mapper"
	no := errors.New("not here")
	for name, c := range map[string]struct {
		reflink, allocate error
		helper            string
		want              api.Backend
		imageBytes        int64
		got               api.Backend // empty: refused
	}{
		"everything works":           {nil, nil, works, "", 1 << 20, api.BackendReflink},
		"no reflink":                 {no, nil, works, api.BackendAuto, 1 << 20, api.BackendSnapshot},
		"no device mapper":           {no, nil, lacks, "", 1 << 20, api.BackendOverlay},
		"no word of the helper":      {no, nil, "", "", 1 << 20, api.BackendOverlay},
		"no allocation":              {no, no, works, "", 1 << 20, api.BackendOverlay},
		"an image of 1 KiB blocks":   {no, nil, works, "", 1<<20 + 1024, api.BackendOverlay},
		"overlay by choice":          {nil, nil, works, api.BackendOverlay, 1 << 20, api.BackendOverlay},
		"snapshot by choice":         {nil, nil, works, api.BackendSnapshot, 1 << 20, api.BackendSnapshot},
		"copy by choice":             {no, no, lacks, api.BackendCopy, 1 << 20, api.BackendCopy},
		"snapshot, no device mapper": {nil, nil, lacks, api.BackendSnapshot, 1 << 20, ""},
		"snapshot, no allocation":    {nil, no, works, api.BackendSnapshot, 1 << 20, ""},
		"snapshot of 1 KiB blocks":   {nil, nil, works, api.BackendSnapshot, 1<<20 + 1024, ""},
		"reflink, and it cannot":     {no, nil, works, api.BackendReflink, 1 << 20, ""},
	} {
		d := &Daemon{store: &store.Store{Dir: "/state"}, probeDisks: func() []disk.Finding {
			return []disk.Finding{{Backend: disk.Reflink, Err: c.reflink}, {Backend: disk.Snapshot, Err: c.allocate}, {Backend: disk.Overlay}, {Backend: disk.Copy}}
		}}
		got, err := d.chooseBackend(ops.HelloReply{Snapshots: c.helper}, c.want, c.imageBytes)
		var refused *api.Error
		if got != c.got || (err != nil) != (c.got == "") || err != nil && (!errors.As(err, &refused) || refused.Code != api.CodeUsage || refused.HintText == "") {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}
