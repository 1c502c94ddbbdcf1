//go:build linux

package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	from "github.com/clusterd/terraform-provider-clusterd/internal/settings"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/agent"
	containerd "github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/containerd/daemon"
)

// settings are how the node was started. The supervisor hands them to the
// agent as JSON.
type settings struct {
	Name    string           `json:"name"`
	Address string           `json:"address"`
	DataDir string           `json:"data_dir"`
	RunDir  string           `json:"run_dir"`
	Cgroup  string           `json:"cgroup"`
	Shim    string           `json:"shim"`
	Socket  string           `json:"socket,omitempty"` // of a containerd that is not ours
	CPU     string           `json:"cpu"`              // allocatable
	Memory  string           `json:"memory"`
	Log     daemon.LogConfig `json:"log"`

	server, token, tokenFile string
	labels                   map[string]string
	gossipPort               int
	leave                    bool
}

// Where a node lives unless it is told otherwise.
const (
	defaultData = "/var/lib/clusterd/agent"
	defaultRun  = "/run/clusterd/agent"
)

func (s *settings) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.server, "server", "", "host:port of a server, to join its cluster")
	f.StringVar(&s.token, "token", "", "join token; better in a file or in CLUSTERD_JOIN_TOKEN, where no process list shows it")
	f.StringVar(&s.tokenFile, "token-file", "", "file with the join token")
	f.StringVar(&s.Name, "name", "", "name of the node (default: the machine's host name)")
	f.StringVar(&s.Address, "address", "", "address other nodes reach this one by (default: the one that leads to the server)")
	f.StringToStringVar(&s.labels, "labels", nil, "labels of the node when it joins, such as zone=a,disk=ssd")
	f.StringVar(&s.DataDir, "data-dir", defaultData, "what survives a reboot: identity, images, checkpoints, logs")
	f.StringVar(&s.RunDir, "run-dir", defaultRun, "what does not: sockets, namespaces")
	f.StringVar(&s.Cgroup, "cgroup", "", "parent of all pods' cgroups (default: /clusterd/<name>)")
	f.StringVar(&s.Shim, "shim", "", "the clusterd-shim program (default: next to nodeagent)")
	f.StringVar(&s.Socket, "containerd-address", "", "socket of an existing containerd to use instead of bringing one along")
	f.StringVar(&s.CPU, "allocatable-cpu", "100%", "what pods may reserve: an amount such as 2 or 500m, or a share of the machine such as 33%")
	f.StringVar(&s.Memory, "allocatable-memory", "90%", "what pods may reserve: an amount such as 2Gi, or a share of the machine such as 33%")
	f.IntVar(&s.gossipPort, "gossip-port", 7946, "port of the gossip, UDP and TCP")
	f.BoolVar(&s.leave, "leave", false, "say goodbye when stopped: pods are replaced elsewhere at once")
	s.Log.Register(f)
	from.Attach(cmd, "token")
}

// complete fills in what depends on the machine and reports what cannot be.
func (s *settings) complete() error {
	if os.Geteuid() != 0 {
		return errors.New("nodeagent runs containers and programs the network: start it as root, as with sudo")
	}
	if s.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("--name is required: %w", err)
		}
		s.Name, _, _ = strings.Cut(strings.ToLower(host), ".")
	}
	if err := api.CheckName(s.Name); err != nil {
		return fmt.Errorf("--name: %w", err)
	}
	s.Cgroup = cmp.Or(s.Cgroup, "/clusterd/"+s.Name)
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	s.Shim = cmp.Or(s.Shim, filepath.Join(filepath.Dir(exe), "clusterd-shim"))
	for flag, path := range map[string]*string{"--data-dir": &s.DataDir, "--run-dir": &s.RunDir, "--shim": &s.Shim} {
		if *path, err = filepath.Abs(*path); err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
	}
	if _, err := agent.Machine(s.CPU, s.Memory); err != nil {
		return err
	}
	return nil
}

// tools reports what a node needs and the machine lacks.
func (s *settings) tools() error {
	if _, err := os.Stat(s.Shim); err != nil {
		return fmt.Errorf("%w: clusterd-shim belongs next to nodeagent, or give --shim", err)
	}
	if _, err := exec.LookPath("runc"); err != nil {
		return fmt.Errorf("%w: install it, as by apt-get install runc", err)
	}
	return nil
}

// reachable fills in the address that others reach the node by.
func (s *settings) reachable(server string) error {
	if s.Address != "" {
		if ip := net.ParseIP(s.Address); ip == nil || ip.To4() == nil {
			return fmt.Errorf("--address %q: want an IPv4 address of this machine", s.Address)
		}
		return nil
	}
	conn, err := net.Dial("udp4", server) // sends nothing: the kernel only picks a route
	if err != nil {
		return fmt.Errorf("--address is required: no route leads to %s: %w", server, err)
	}
	defer conn.Close()
	s.Address, _, err = net.SplitHostPort(conn.LocalAddr().String())
	return err
}

func (s *settings) identityDir() string { return filepath.Join(s.DataDir, "identity") }

// containerd is where our own daemon lives.
func (s *settings) containerd() containerd.Config {
	return containerd.Config{DataDir: filepath.Join(s.DataDir, "containerd"), RunDir: filepath.Join(s.RunDir, "containerd")}
}
