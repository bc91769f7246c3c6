package vm

import (
	"errors"
	"io/fs"
	"slices"
	"syscall"

	"banger/personas/api"
	"banger/personas/guest/link"
	"banger/personas/sshconfig"
)

// given is what a guest gets of the owner's when it boots.
type given struct {
	files []link.File
	keys  []string
}

func (s *Set) given(r *Record, progress func(api.Event)) (given, error) {
	files, err := s.syncedFiles(r, progress)
	if err != nil {
		return given{}, err
	}
	return given{files, s.authorizedKeys(r)}, nil
}

// authorizedKeys are those that the VM was created with, and the owner's own. The
// owner's is made where it can be: an installed daemon cannot write to a home, but
// there the CLI is the owner's, and has made it.
func (s *Set) authorizedKeys(r *Record) []string {
	keys := slices.Clone(r.Spec.AuthorizedKeys)
	if s.Home == "" {
		return keys
	}
	own, err := sshconfig.In(s.Home).EnsureKey()
	switch {
	case err == nil && !slices.Contains(keys, own):
		return append(keys, own)
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission), err == nil:
	default:
		s.Log.Warn("take the owner's ssh key, ignoring", "error", err)
	}
	return keys
}
