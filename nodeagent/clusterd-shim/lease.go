//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/lease"
)

// A container that may run elsewhere once its node is cut off runs on the
// node's lease. This process lives as long as the container does, needs no
// other, and so is the one to end it: agent, supervisor and containerd may be
// stopped, frozen or dead.

// mayRun refuses a container whose node has no lease.
func mayRun(id, path string) error {
	if path != "" && lease.Left(path, lease.Boot) == 0 {
		return fmt.Errorf("container %s: the node's run lease has ended", id)
	}
	return nil
}

// guard kills the container when the lease has ended, again and again until it
// is gone, which closes ended.
func (s *service) guard(id, path string, ended <-chan struct{}) {
	tick := time.NewTicker(lease.Look)
	defer tick.Stop()
	var until time.Duration // read anew only once it has passed
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		if lease.Boot() < until {
			continue
		}
		if l, err := lease.Read(path); err == nil {
			until = l.Until
		}
		if lease.Boot() < until {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, _ = s.TTRPCTaskService.Kill(ctx, &taskapi.KillRequest{ID: id, Signal: uint32(unix.SIGKILL), All: true}) // tried again
		cancel()
	}
}
