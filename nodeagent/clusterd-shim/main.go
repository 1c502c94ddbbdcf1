//go:build linux

// Clusterd-shim is the process beside each pod that holds its containers: the
// runc shim of containerd, with two things added. It writes how a container
// ended to a journal before it tells anyone, and it copies the container's
// output to a log file, each line stamped, itself.
//
// Invariants: a container needs no process but this one to run, to log and to
// have its end known; what it printed is in its log, and its end in the
// journal, before anyone can learn that it has ended.
//
// Both are asked for by annotations of the container's spec (see package
// journal), so that any containerd can be the one that starts this shim.
package main

import (
	"context"
	"errors"
	"os"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"golang.org/x/sys/unix"
)

func main() {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn:   open,
	})
	shim.RunShim(context.Background(), reaper{manager.NewShimManager("io.containerd.runc.v2")})
}

func open(ic *plugin.InitContext) (any, error) {
	publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
	if err != nil {
		return nil, err
	}
	stopper, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
	if err != nil {
		return nil, err
	}
	p, isPublisher := publisher.(shim.Publisher)
	s, isStopper := stopper.(shutdown.Service)
	if !isPublisher || !isStopper {
		return nil, errors.New("containerd's shim library has changed: publisher and shutdown are not what they were")
	}
	s.RegisterCallback(removeSocket())
	books := &books{open: map[string]*book{}}
	inner, err := task.NewTaskService(ic.Context, publisherWithBooks{p, books}, s)
	if err != nil {
		return nil, err
	}
	return &service{TTRPCTaskService: inner, books: books}, nil
}

// removeSocket returns what removes the socket this shim serves. containerd's
// library looks for one named by a container, where ours is named by the pod.
// A next shim of the pod may have replaced it by then, and keeps its own.
func removeSocket() func(context.Context) error {
	var path string
	var mine os.FileInfo
	if address, err := unix.Getsockname(socketFD); err == nil {
		if a, ok := address.(*unix.SockaddrUnix); ok {
			path = a.Name
			mine, _ = os.Stat(path)
		}
	}
	return func(context.Context) error {
		if now, err := os.Stat(path); mine == nil || err != nil || !os.SameFile(now, mine) {
			return nil
		}
		return os.Remove(path)
	}
}

// socketFD is where the starting shim hands its socket to the serving one.
const socketFD = 3
