// Lab starts a host with a real systemd, and a shell or one command in it. The
// host is gone when that ends.
//
//	go run ./testdata/lab shell [-tier ns|host] [-user NAME]
//	go run ./testdata/lab run   [-tier ns|host] [-user NAME] COMMAND...
//
// ./banger, and the kernel and images that testdata/assets.sh makes, lie in
// /srv/lab of the host. As root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/term"

	"banger/testdata/lab/rig"
	"banger/testdata/lab/talk"
	"banger/testdata/lab/tree"
)

func main() {
	rig.Main()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	code, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		code = 125
	}
	os.Exit(code)
}

func run(ctx context.Context, args []string) (int, error) {
	if len(args) == 0 || args[0] != "shell" && args[0] != "run" {
		return 0, errors.New("usage: lab shell|run [-tier ns|host] [-user NAME] [COMMAND...]")
	}
	flags := flag.NewFlagSet("lab", flag.ContinueOnError)
	tier := flags.String("tier", string(rig.Namespaces), "what the host is made of")
	user := flags.String("user", "root", "who runs the command")
	if err := flags.Parse(args[1:]); err != nil {
		return 2, nil
	}
	command := flags.Args()
	if args[0] == "shell" {
		command = []string{"bash", "-l"}
	}
	files, err := payload()
	if err != nil {
		return 0, err
	}
	host, err := rig.Start(ctx, rig.Config{
		Tier:  rig.Tier(*tier),
		Files: files,
		Tell:  func(s string) { fmt.Fprintln(os.Stderr, s) },
	})
	if err != nil {
		return 0, err
	}
	code, err := attach(ctx, host, talk.Command{User: *user, Args: command})
	return code, errors.Join(err, host.Close())
}

// payload returns what is there of what a host may want to have.
func payload() (map[string]string, error) {
	cache, err := tree.Cache()
	if err != nil {
		return nil, err
	}
	banger, err := filepath.Abs("banger")
	if err != nil {
		return nil, err
	}
	files := map[string]string{
		"banger":                banger,
		"linux-image-cloud.deb": filepath.Join(cache, "linux-image-cloud.deb"),
		"debian.tar":            filepath.Join(cache, "debian.tar"),
		"debian-systemd.tar":    filepath.Join(cache, "debian-systemd.tar"),
		"firecracker":           os.Getenv("BANGER_FIRECRACKER"),
		"jailer":                os.Getenv("BANGER_JAILER"),
	}
	for name, file := range files {
		if _, err := os.Stat(file); err != nil {
			delete(files, name)
		}
	}
	return files, nil
}

// attach runs a command on this program's streams, and on a terminal if those
// are one.
func attach(ctx context.Context, host *rig.Host, cmd talk.Command) (int, error) {
	streams := talk.Streams{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	stdin := int(os.Stdin.Fd())
	if !term.IsTerminal(stdin) {
		p, err := host.Start(cmd, streams)
		if err != nil {
			return 0, err
		}
		return p.Wait(ctx)
	}
	cmd.Terminal = size(stdin)
	old, err := term.MakeRaw(stdin)
	if err != nil {
		return 0, err
	}
	defer term.Restore(stdin, old)
	p, err := host.Start(cmd, streams)
	if err != nil {
		return 0, err
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-resized:
				p.Resize(*size(stdin))
			case <-done:
				return
			}
		}
	}()
	return p.Wait(ctx)
}

func size(fd int) *talk.Size {
	columns, rows, err := term.GetSize(fd)
	if err != nil {
		columns, rows = 80, 24
	}
	return &talk.Size{Rows: uint16(rows), Columns: uint16(columns)}
}
