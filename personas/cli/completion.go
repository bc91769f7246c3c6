package cli

import (
	"context"
	"fmt"
	"time"

	"banger/personas/cli/completion"
)

// completionCmd is `banger completion`.
type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help returns examples.
func (completionCmd) Help() string {
	return `It goes to standard output; each shell has its own place for it.

    source <(banger completion bash)
    banger completion zsh > ~/.zfunc/_banger
    banger completion fish > ~/.config/fish/completions/banger.fish`
}

// Run prints a script.
func (c *completionCmd) Run(a *app) error {
	parser, err := newParser(new(grammar), a, func(int) {})
	if err != nil {
		return fmt.Errorf("build grammar: %w", err)
	}
	return completion.Write(a.out, c.Shell, parser.Model)
}

// completeCmd prints names for the completion scripts. It starts no daemon: a
// key press in a shell must not.
type completeCmd struct {
	What string `arg:"" enum:"vm,image,kernel"`
}

// keyTimeout bounds what a key press may wait.
const keyTimeout = 2 * time.Second

// Run prints names.
func (c *completeCmd) Run(ctx context.Context, a *app) error {
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	var names []string
	switch c.What {
	case "vm":
		vms, err := a.client().VMs(ctx)
		if err != nil {
			return err
		}
		for _, vm := range vms {
			names = append(names, vm.Name)
		}
	case "image":
		images, err := a.client().Images(ctx)
		if err != nil {
			return err
		}
		for _, img := range images {
			names = append(names, img.Name)
		}
	case "kernel":
		kernels, err := a.client().Kernels(ctx)
		if err != nil {
			return err
		}
		for _, k := range kernels {
			names = append(names, k.Name)
		}
	}
	return a.printNames(names)
}
