package pod

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// diskFull is the reason on a pod that cannot start for want of disk space.
const diskFull = "disk_full"

// diskGrace is how long a disk must be full to be called so: images that are
// not needed are being removed, perhaps.
const diskGrace = 10 * time.Second

// mounts is the storage a container finds, the outer directories first.
func (w *worker) mounts(container string) (out []runtime.Mount) {
	mounts := w.pod.Spec.Init[container].Mounts
	if c, ok := w.pod.Spec.Containers()[container]; ok {
		mounts = c.Mounts
	}
	for _, target := range slices.Sorted(maps.Keys(mounts)) {
		m := mounts[target]
		out = append(out, runtime.Mount{Source: w.mounted[m.Source(target)], Target: target, ReadOnly: api.Deref(m.ReadOnly)})
	}
	return out
}

// brimful returns where a container has storage that takes nothing more.
func (w *worker) brimful(container string) (targets []string) {
	for _, m := range w.mounts(container) {
		if !m.ReadOnly && m.Source != "" && w.cfg.Storage.Full(m.Source) {
			targets = append(targets, m.Target)
		}
	}
	return targets
}

// crammed says of which storage a container, that ended badly, had no more.
func (p *planner) crammed(name string) string {
	full := p.see.Brimful[name]
	if len(full) == 0 {
		return ""
	}
	mounts := p.spec(name).Mounts
	words := make([]string, len(full))
	for i, target := range full {
		switch m := mounts[target]; {
		case m.Volume != "":
			words[i] = fmt.Sprintf("its volume %s at %s", m.Volume, target)
		case m.Scratch != "":
			words[i] = fmt.Sprintf("its scratch space at %s (%s)", target, m.Scratch)
		default:
			words[i] = fmt.Sprintf("the node's disk at %s", target)
		}
	}
	return " with " + strings.Join(words, " and ") + api.Brimful
}

// trouble takes in a step that went wrong. The runtime passes on in words that
// a disk is full.
func (f *facts) trouble(err error, now time.Time) {
	f.Trouble = strings.TrimLeft(err.Error(), "+-~>!? ") // the sign of the step is for plans
	switch full := errors.Is(err, syscall.ENOSPC) || strings.Contains(f.Trouble, syscall.ENOSPC.Error()); {
	case !full:
		f.Full = time.Time{}
	case f.Full.IsZero():
		f.Full = now
	}
}

// disk declares that the pod cannot start for want of disk space, once that is
// certain, and takes it back when there is some.
func (p *planner) disk() {
	if p.see.Full.IsZero() {
		p.mended(api.MainContainer, diskFull)
		return
	}
	if !p.past(p.see.Full.Add(diskGrace)) || p.rec.Status.Fatal != nil {
		return
	}
	cause := &api.Cause{
		Reason: diskFull, Pod: p.pod.Meta.Name, Node: p.pod.Spec.Node, Container: api.MainContainer,
		Message: fmt.Sprintf("the disk of node %s is full: %s; free some of it, or give the pod another node", p.pod.Spec.Node, p.see.Trouble),
	}
	p.fatal(cause)
	p.event(true, diskFull, "%s", cause.Message)
}
