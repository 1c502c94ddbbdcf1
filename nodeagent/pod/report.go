package pod

import (
	"fmt"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// report writes into the record what is so: the status that users, the app
// loop and the service loop read.
func (p *planner) report() {
	st := &p.rec.Status
	if st.Phase == "" {
		st.Phase = api.PhasePending
	}
	if p.see.IP != "" {
		st.IP = p.see.IP
	}
	if st.Phase.Ended() {
		st.Ready, st.Reason, st.Message = false, "", ""
		if st.Phase == api.PhaseFailed && st.Fatal != nil {
			st.Reason, st.Message = st.Fatal.Reason, st.Fatal.Message
		}
		if p.rec.Isolated {
			st.Reason, st.Message = api.Isolated, p.isolation()
		}
		st.ReadyAt = orTime(st.EndedAt, st.ReadyAt)
		if st.EndedAt.IsZero() {
			st.EndedAt = p.now.UTC()
		}
		for name, c := range st.Containers {
			c.State, c.Ready, c.PID, c.Reason, c.Message, c.Last = api.ContainerExited, false, 0, "", "", p.life(name).Last
			st.Containers[name] = c
		}
		return
	}
	old := st.Containers
	st.Containers = map[string]api.ContainerStatus{}
	ready := st.Phase == api.PhaseRunning
	st.Reason, st.Message, st.Crowded = "", "", false
	for _, name := range p.names() {
		c := p.container(name)
		c.Restarts = max(c.Restarts, old[name].Restarts)
		st.Containers[name] = c
		// A sidecar that says how to tell that it serves is needed for that.
		if name == api.MainContainer || p.isSidecar(name) && p.spec(name).Health != nil {
			ready = ready && c.Ready
		}
		// The main container is the last of names, and has the last word, unless
		// all it has to say is that it waits for another.
		if c.Reason != "" && (c.Reason != initializing || st.Reason == "" || st.Reason == initializing) {
			st.Reason, st.Message = c.Reason, c.Message
		}
	}
	main := st.Containers[api.MainContainer]
	switch {
	case st.Phase == api.PhaseStopping && p.rec.Outcome == api.PhaseFailed && st.Fatal != nil: // it ends by itself
		st.Reason, st.Message = st.Fatal.Reason, st.Fatal.Message
	case st.Phase == api.PhaseStopping:
		st.Reason, st.Message = "", ""
		if p.rec.Stop.Signal.IsZero() {
			st.Reason, st.Message = "draining", "waits until no proxy sends new connections here"
		}
	case p.see.NoLease:
		st.Reason, st.Message = "no_lease", fmt.Sprintf("waits until node %s has a run lease: it does not reach the leading server", p.pod.Spec.Node)
	case !ready && p.see.Trouble != "":
		st.Reason, st.Message = "node_trouble", p.see.Trouble
		if !p.see.Full.IsZero() {
			st.Reason = diskFull
		}
	}
	p.ready(ready)
	if main.State == api.ContainerRunning && st.StartedAt.IsZero() {
		st.StartedAt = main.StartedAt
	}
}

func (p *planner) ready(ready bool) {
	st := &p.rec.Status
	if ready && !st.Ready {
		st.ReadyAt = p.now.UTC()
	}
	if ready {
		p.rec.Served = true
	}
	st.Ready = ready
}

// initializing is the reason of a container whose turn has not come.
const initializing = "initializing"

// waiting says in words for whom a container waits.
func (p *planner) waiting(name string) string {
	first := p.awaits(name)
	if p.isInit(first) {
		return fmt.Sprintf("%s waits for init container %s to end", name, first)
	}
	return fmt.Sprintf("%s waits for sidecar %s to be ready", name, first)
}

// container says what is so of one container.
func (p *planner) container(name string) api.ContainerStatus {
	l, spec := p.life(name), p.spec(name)
	c := api.ContainerStatus{State: api.ContainerWaiting, Restarts: max(0, l.Attempt-1), Last: l.Last}
	r, begun := p.current(name)
	image := p.see.Images[spec.Image]
	switch {
	case begun && r.State == runtime.Running:
		c.State, c.Restarts, c.PID, c.StartedAt, c.Image = api.ContainerRunning, l.Attempt, r.PID, r.StartedAt.UTC(), r.Image
		c.Ready = l.Healthy
		if why := p.ailing(name); why != "" {
			c.Reason, c.Message = "unhealthy", why
		}
	case begun && r.State == runtime.Exited:
		c.State, c.Restarts, c.Image = api.ContainerExited, l.Attempt, r.Image
	case l.Done:
		c.State, c.Restarts = api.ContainerExited, l.Attempt
	case begun || p.see.Hold:
	case l.Streak >= certainAt || l.Reason == "cannot_start":
		c.Reason, c.Message = l.Reason, l.Message
	case l.Streak > 0 && p.now.Before(l.Until):
		c.Reason, c.Message = "restarting", l.Message
	case !image.Present && image.Err != "":
		c.Reason, c.Message = image.trouble(spec.Image)
	case p.awaits(name) != "":
		c.Reason, c.Message = initializing, p.waiting(name)
	case !image.Present:
		c.Reason, c.Message = "pulling", "fetching image "+spec.Image
		if image.Progress != "" {
			c.Message += ": " + image.Progress
		}
	}
	return c
}
