package agent

import (
	"fmt"
	"strconv"
	"syscall"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

const (
	passwdFile = "/etc/passwd"
	groupFile  = "/etc/group"
)

// An identity is who a command runs as, by the guest's own files.
type identity struct {
	uid, gid uint32
	groups   []uint32
	name     string
	home     string
	shell    string
}

// lookupIdentity resolves "name", "uid", "name:group" or "uid:gid". A number
// need not be in the files; empty is root.
func lookupIdentity(spec string) (identity, error) {
	if spec == "" {
		spec = "0"
	}
	found, err := user.GetExecUserPath(spec, &user.ExecUser{Home: "/"}, passwdFile, groupFile)
	if err != nil {
		return identity{}, fmt.Errorf("user %q: %w", spec, err)
	}
	id := identity{
		uid: uint32(found.Uid), gid: uint32(found.Gid), home: found.Home,
		name: strconv.Itoa(found.Uid), shell: "/bin/sh",
	}
	for _, g := range found.Sgids {
		id.groups = append(id.groups, uint32(g))
	}
	// A guest without /etc/passwd has numbers only.
	entries, err := user.ParsePasswdFileFilter(passwdFile, func(u user.User) bool { return u.Uid == found.Uid })
	if err == nil && len(entries) > 0 {
		id.name = entries[0].Name
		if entries[0].Shell != "" {
			id.shell = entries[0].Shell
		}
	}
	return id, nil
}

// credential is nil when the agent is that user already and may not change it,
// as in a test without root.
func (id identity) credential() *syscall.Credential {
	if unix.Geteuid() != 0 && uint32(unix.Geteuid()) == id.uid {
		return nil
	}
	return &syscall.Credential{Uid: id.uid, Gid: id.gid, Groups: id.groups}
}
