package vm

import (
	"fmt"

	"banger/personas/api"
	"banger/personas/daemon/filesync"
	"banger/personas/guest/link"
)

// syncedFiles are the files of the owner's home that the VM gets: once, at its
// first start, so that what the guest makes of them is never overwritten. They are
// as they are then, and not as they were when the VM was created.
//
// They travel in the boot configuration, whatever their size: the bounds of
// filesync fit into it, and so they are on the guest's disk before its first
// service starts, which a copy by the agent could not promise.
func (s *Set) syncedFiles(r *Record, progress func(api.Event)) ([]link.File, error) {
	if !r.StartedAt.IsZero() {
		return nil, nil
	}
	files, missing, err := filesync.Read(s.Home, r.Sync)
	if err != nil {
		return nil, err
	}
	for _, i := range missing {
		progress(api.Event{Notice: fmt.Sprintf("file_sync[%d]: ~/%s is not there, so the VM does not get it", i, r.Sync[i].Host)})
	}
	return files, nil
}
