package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"banger/personas/api"
)

// configCmd is the noun config.
type configCmd struct {
	Show configShowCmd `cmd:"" help:"Print what a VM gets that asks for nothing, and where each value comes from."`
	Path configPathCmd `cmd:"" help:"Print where the configuration is."`
	Edit configEditCmd `cmd:"" help:"Open the configuration in your editor, and check it afterwards."`
}

// configShowCmd is `banger config show`.
type configShowCmd struct{}

// Help returns examples.
func (configShowCmd) Help() string {
	return `A flag counts first, then the file, then what suits this host, then what is built in. The file is read for each VM that is made: a change needs no restart.

    banger config show
    banger config show --output json | jq -r '.values[] | select(.key == "memory").value'`
}

// Run shows the settings.
func (configShowCmd) Run(ctx context.Context, a *app) error {
	s, err := a.settings(ctx)
	if err != nil {
		return err
	}
	if s.Error != nil {
		return s.Error
	}
	if a.json {
		return a.printJSON(s)
	}
	rows := make([][]string, 0, len(s.Values)+len(s.FileSync))
	for _, v := range s.Values {
		rows = append(rows, []string{v.Key, v.Value, v.Source})
	}
	for i, f := range s.FileSync {
		rows = append(rows, []string{fmt.Sprintf("file_sync[%d]", i), fmt.Sprintf("%s to %s, %s", f.Host, f.Guest, f.Mode), s.Path})
	}
	return a.printTable([]string{"KEY", "VALUE", "FROM"}, rows)
}

func (a *app) settings(ctx context.Context) (api.Settings, error) {
	client, err := a.daemon(ctx)
	if err != nil {
		return api.Settings{}, err
	}
	return client.Settings(ctx)
}

// configPathCmd is `banger config path`.
type configPathCmd struct{}

// Run prints the path, whether there is a file or not.
func (configPathCmd) Run(ctx context.Context, a *app) error {
	s, err := a.settings(ctx)
	if err != nil {
		return err
	}
	return a.printNames([]string{s.Path})
}

// configEditCmd is `banger config edit`.
type configEditCmd struct{}

// Run opens the editor and then asks the daemon what it makes of the file.
func (configEditCmd) Run(ctx context.Context, a *app) error {
	s, err := a.settings(ctx)
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		// Root makes no files in somebody's home, nor follows links there.
		return &usageError{message: "the configuration is its owner's", hint: "run it without sudo, or edit " + s.Path}
	}
	if err := os.MkdirAll(filepath.Dir(s.Path), 0o700); err != nil {
		return fmt.Errorf("make folder of the configuration: %w", err)
	}
	if err := a.edit(s.Path); err != nil {
		return err
	}
	if s, err = a.settings(ctx); err == nil && s.Error != nil {
		return s.Error
	}
	return err
}

// edit runs the editor. It has the terminal, so that a signal meanwhile is one of
// its keys, or for it to see as well: whoever ended it here took away what it has
// not saved, and left the terminal as it had made it.
func (a *app) edit(path string) error {
	argv := append(editor(), path)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.in, a.out, a.err
	defer a.signals.take(func(syscall.Signal) {}, syscall.SIGQUIT)()
	if err := cmd.Run(); err != nil {
		return withHint(fmt.Errorf("run editor: %w", err), "EDITOR names the one to use")
	}
	return nil
}

// editor is the user's, with its arguments.
func editor() []string {
	for _, name := range []string{"VISUAL", "EDITOR"} {
		if argv := strings.Fields(os.Getenv(name)); len(argv) > 0 {
			return argv
		}
	}
	return []string{"vi"}
}
