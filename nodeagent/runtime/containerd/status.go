//go:build linux

package containerd

import (
	"context"
	"fmt"
	"maps"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/containerd/journal"
)

// Status returns one container.
func (r *Runtime) Status(ctx context.Context, id string) (runtime.Status, error) {
	c, err := r.client.ContainerService().Get(ctx, id)
	if errdefs.IsNotFound(err) {
		return runtime.Status{}, fmt.Errorf("container %s: %w", id, runtime.ErrNotFound)
	}
	if err != nil {
		return runtime.Status{}, fmt.Errorf("container %s: %w", id, err)
	}
	var process *tasktypes.Process
	got, err := r.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: id})
	if err == nil {
		process = got.Process
	} else if err = errgrpc.ToNative(err); !errdefs.IsNotFound(err) {
		return runtime.Status{}, fmt.Errorf("container %s: %w", id, err)
	}
	st, err := r.status(c, process)
	if err != nil || !st.Exit.Unknown {
		return st, err
	}
	all := []runtime.Status{st}
	err = r.findOut(ctx, all)
	return all[0], err
}

// List returns all containers of ours.
func (r *Runtime) List(ctx context.Context) ([]runtime.Status, error) {
	all, err := r.client.ContainerService().List(ctx, fmt.Sprintf("labels.%q", podLabel))
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	running, err := r.client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", errgrpc.ToNative(err))
	}
	processes := map[string]*tasktypes.Process{}
	for _, p := range running.Tasks {
		processes[p.ID] = p
	}
	list := make([]runtime.Status, 0, len(all))
	for _, c := range all {
		st, err := r.status(c, processes[c.ID])
		if err != nil {
			return nil, fmt.Errorf("list containers: %w", err)
		}
		list = append(list, st)
	}
	return list, r.findOut(ctx, list)
}

// findOut gives containerd a moment to enter the ends of containers whose shim
// has just died: until then nobody knows them, and a moment later everybody.
// What is unknown after that stays so.
func (r *Runtime) findOut(ctx context.Context, list []runtime.Status) error {
	deadline := time.After(moment)
	for {
		waiting := false
		for i, st := range list {
			if _, given := r.unknown.Load(st.ID); given || !st.Exit.Unknown {
				continue
			}
			record, err := journal.Load(r.config.journal(), st.ID)
			if err != nil {
				return err
			}
			if record == nil || record.Exit == nil {
				waiting = true
				continue
			}
			list[i].Exit = exit(record)
		}
		if !waiting {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			for _, st := range list {
				if st.Exit.Unknown {
					r.unknown.Store(st.ID, nil)
				}
			}
			return nil
		}
	}
}

const moment = 2 * time.Second

func exit(r *journal.Record) runtime.Exit {
	return runtime.Exit{Code: r.Exit.Code, OOM: r.OOM(), At: r.Exit.At}
}

// status joins what containerd knows of now with what the journal knows of
// before: a task says that a container runs, and only the journal how one that
// does not came to be so.
func (r *Runtime) status(c containers.Container, p *tasktypes.Process) (runtime.Status, error) {
	st := runtime.Status{
		ID: c.ID, Pod: c.Labels[podLabel], Image: c.Labels[digestLabel], State: runtime.Created,
		Labels: maps.Clone(c.Labels),
	}
	for l := range c.Labels {
		if l == podLabel || l == digestLabel || foreign(l) {
			delete(st.Labels, l)
		}
	}
	record, err := journal.Load(r.config.journal(), c.ID)
	if err != nil {
		return st, err
	}
	if record == nil {
		return st, nil
	}
	st.StartedAt = record.StartedAt
	switch {
	case record.Exit != nil:
		st.State = runtime.Exited
		st.Exit = exit(record)
	case p == nil || p.Status == tasktypes.Status_UNKNOWN:
		st.State, st.Exit = runtime.Exited, runtime.Exit{Unknown: true}
	case p.Status == tasktypes.Status_STOPPED:
		// The shim could not write; what it remembers is all there is.
		st.State = runtime.Exited
		st.Exit = runtime.Exit{Code: int(p.ExitStatus), At: p.ExitedAt.AsTime()}
	case p.Status == tasktypes.Status_CREATED:
		// A start is under way.
	default:
		st.State, st.PID = runtime.Running, int(p.Pid)
	}
	return st, nil
}

// foreign is whether containerd put a label on, for itself or from the image.
func foreign(label string) bool {
	return len(label) > len("io.containerd.") && label[:len("io.containerd.")] == "io.containerd."
}
