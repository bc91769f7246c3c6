package cli

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"

	"banger/personas/api"
	"banger/personas/cli/bringup"
)

// answerTimeout bounds the wait for a daemon that has accepted a connection, or
// was just started, to say who it is.
const answerTimeout = 30 * time.Second

// client returns a client of the daemon without looking for it.
func (a *app) client() *api.Client { return api.New(a.socket(), a.requestID) }

// daemon returns a client of a daemon that answers. As root it brings up what
// is missing.
func (a *app) daemon(ctx context.Context) (*api.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	client := a.client()
	if a.config.Socket != "" || os.Geteuid() != 0 || isInstalled() {
		_, err := client.Version(ctx)
		return client, unreachable(err)
	}
	return client, bringup.Reach(ctx, bringup.Default(a.socket()), func(ctx context.Context) error {
		_, err := client.Version(ctx)
		return err
	})
}

// unreachable explains to a user without rights why the daemon cannot be used.
func unreachable(err error) error {
	const ways = `"sudo banger ..." starts bangerd as you, and as long as it runs, "banger ..." works too; "sudo banger system install --owner $USER" installs it, and sudo is never needed again`
	const others = `only the owner of this host's banger can use it; "sudo banger system status" says who that is`
	gone := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
	switch {
	case gone && isInstalled():
		return withHint(errors.New("connect to bangerd: it does not run"), `"systemctl status bangerd" says why; "sudo banger system restart" starts it`)
	case errors.Is(err, fs.ErrPermission):
		return withHint(errors.New("connect to bangerd: it belongs to another user"), others)
	case gone:
		return withHint(errors.New("connect to bangerd: it does not run"), ways)
	}
	return err
}
