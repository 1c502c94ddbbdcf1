// Package daemon is containerd as a part of nodeagent: the program starts
// itself again as `nodeagent containerd`, so that a machine needs no package
// of containerd and many nodes fit on one machine.
//
// Invariants: every path, socket and lock of a daemon is below its own data
// and run directory, so that any number of them, and the machine's own
// containerd, leave each other alone; only the plugins listed in plugins.go
// are there; containers outlive the daemon.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/cmd/containerd/command"
)

// Config is where a daemon lives. The directories must be absolute.
type Config struct {
	DataDir  string // survives a reboot: images, snapshots
	RunDir   string // does not: sockets, state of running containers
	LogLevel string // as containerd's: trace, debug, info, warn (default), error
}

// maxSocketPath is what a Unix socket's path may be long; a shim's socket is
// named by 64 hex digits.
const maxSocketPath = 107

// Address is the socket the daemon serves.
func (c Config) Address() string { return filepath.Join(c.RunDir, "containerd.sock") }

func (c Config) file() string      { return filepath.Join(c.RunDir, "containerd.toml") }
func (c Config) socketDir() string { return filepath.Join(c.RunDir, "s") }

// Prepare writes the daemon's configuration and returns the arguments with
// which nodeagent becomes it.
func (c Config) Prepare() (args []string, err error) {
	if !filepath.IsAbs(c.DataDir) || !filepath.IsAbs(c.RunDir) {
		return nil, fmt.Errorf("containerd's directories %q and %q must be absolute", c.DataDir, c.RunDir)
	}
	if n := len(c.socketDir()) + 1 + 64; n > maxSocketPath {
		return nil, fmt.Errorf("run directory %s is %d bytes too long for the sockets below it: choose a shorter one", c.RunDir, n-maxSocketPath)
	}
	for _, dir := range []string{c.DataDir, c.RunDir, c.socketDir()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(c.file(), c.toml(), 0o600); err != nil {
		return nil, err
	}
	level := c.LogLevel
	if level == "" {
		level = "warn"
	}
	return []string{"containerd", "--config", c.file(), "--log-level", level}, nil
}

// toml names everything two containerds would otherwise share.
func (c Config) toml() []byte {
	return fmt.Appendf(nil, `version = 4
root = %q
state = %q
imports = []

[plugins."io.containerd.server.v1.grpc"]
  address = %q
[plugins."io.containerd.server.v1.ttrpc"]
  address = %q
[plugins."io.containerd.internal.v1.opt"]
  path = %q
[plugins."io.containerd.shim.v1.manager"]
  socket_dir = %q
`, filepath.Join(c.DataDir, "root"), filepath.Join(c.RunDir, "state"),
		c.Address(), c.Address()+".ttrpc", filepath.Join(c.DataDir, "opt"), c.socketDir())
}

// Wait returns when the daemon serves. That its socket exists says nothing: it
// is still there after a daemon was killed.
func (c Config) Wait(ctx context.Context) error {
	for {
		client, err := containerd.New(c.Address(), containerd.WithTimeout(time.Second))
		if err == nil {
			serving, err := client.IsServing(ctx)
			client.Close()
			if serving && err == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("containerd does not serve %s: %w", c.Address(), errors.Join(ctx.Err(), err))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Main is the daemon. args are those of Prepare after the first. It takes over
// the process: its signals, its log and its end.
func Main(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("nodeagent containerd", flag.ContinueOnError)
	config := flags.String("config", "", "configuration file, as nodeagent wrote it")
	level := flags.String("log-level", "warn", "trace, debug, info, warn or error")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *config == "" {
		return errors.New("--config is needed: nodeagent run writes it and starts this command")
	}
	return command.App().Run(ctx, []string{"containerd", "--config", *config, "--log-level", *level})
}
