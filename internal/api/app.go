package api

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Apps keep pods of one template running.
var Apps = &Kind[*App]{
	Name: "App", Plural: "apps", Aliases: []string{"app"}, Scope: Namespaced, TwoStep: true, Parts: []string{"intent"},
	Doc: "A workload: pods of one template, kept running, healed, scaled and rolled out.",
	Columns: []Column[*App]{
		{Name: "READY", Of: func(a *App) string { return fmt.Sprintf("%d/%d", a.Status.Ready, Desired(a)) }},
		{Name: "UPDATED", Of: func(a *App) string { return fmt.Sprint(a.Status.Updated) }},
		{Name: "ROLLOUT", Of: func(a *App) string { return string(a.Status.Rollout.Phase) }},
		{Name: "REVISION", Of: func(a *App) string { return a.Status.Rollout.Revision }},
		{Name: "IMAGE", Of: func(a *App) string { return a.Spec.Image }},
		{Name: "DIGEST", Wide: true, Of: func(a *App) string { return digestColumn(a.Effective.Image) }},
		{Name: "AGE", Of: func(a *App) string { return Age(a.Meta.CreatedAt) }},
		{Name: "MESSAGE", Wide: true, Of: func(a *App) string { return a.Status.Message }},
	},
}

// App is a workload: pods of one template, kept running.
type App = Object[AppSpec, AppStatus]

// AppSpec is what a team wants to run. The main container's fields are flat:
// image, command, args, env, cpu, memory, ports, health, …
type AppSpec struct {
	Container
	Replicas  *int                 `json:"replicas,omitempty" doc:"How many pods to keep running; or scale, or per_node." default:"1"`
	Scale     *Scale               `json:"scale,omitempty" doc:"Keep as many pods running as the load asks for, instead of replicas."`
	PerNode   *bool                `json:"per_node,omitempty" doc:"One pod on every node that placement allows, instead of replicas. Default: false."`
	Stateful  *Stateful            `json:"stateful,omitempty" doc:"Pods have ordinals: names, volumes and DNS names that stay, and at most one runs of each."`
	Init      map[string]Init      `json:"init,omitempty" doc:"Containers that run to their end before the others start, one after another in the order of their names."`
	Sidecars  map[string]Container `json:"sidecars,omitempty" doc:"Containers that start and are ready before the main one, share its network and storage, and end after it."`
	Placement *Placement           `json:"placement,omitempty" doc:"Where pods may and should run."`
	Update    *Update              `json:"update,omitempty" doc:"How a change is rolled out."`
	Restart   *Restart             `json:"restart,omitempty" doc:"What happens to a container that ended."`
	Stop      *Stop                `json:"stop,omitempty" doc:"How containers are asked to end."`

	HostNetwork *bool  `json:"host_network,omitempty" doc:"Pods have the network of their node; the namespace must allow it. Default: false."`
	Pull        string `json:"pull,omitempty" doc:"When a node fetches an image: if_absent, always before a container starts, or never." enum:"if_absent,always,never" default:"if_absent"`
	PullAuth    string `json:"pull_auth,omitempty" doc:"Name of a secret with username and password for the images' registry."`

	DeletionProtection *bool `json:"deletion_protection,omitempty" doc:"Refuse to delete the app. Default: false."`
}

// Desired returns how many pods an app wants now: what is declared, or what its
// scaler or the nodes ask for.
func Desired(a *App) int {
	if a.Effective.Replicas != nil {
		return *a.Effective.Replicas
	}
	return a.Status.Desired
}

// Floor returns how many pods of an app nothing but a failure may take away:
// min_available, and of what it wants now when that says nothing.
func Floor(a *App) int {
	u, want := Deref(a.Effective.Update), Desired(a)
	return min(*or(u.MinAvailable, max(0, want-max(Deref(u.MaxParallel), 1))), want)
}

// MaxReplicas is the most pods one app may have.
const MaxReplicas = 10000

// Validate reports every violation.
func (s AppSpec) Validate() error {
	var errs Errors
	errs.Add("", s.Container.validate())
	errs.Add("", s.validateCount())
	errs.Add("", s.Template().validateParts())
	if s.Stateful != nil {
		errs.Add("stateful", s.Stateful.validate())
	}
	for _, at := range sortedKeys(s.Mounts) {
		if s.Mounts[at].Size != "" && s.Stateful == nil {
			errs.Addf(join("mounts", keyPath(at))+".size", "is for stateful apps: name a volume that exists, or set stateful = {}")
		}
	}
	if name := s.Template().Writes(); name != "" && s.Stateful == nil {
		for field, many := range map[string]bool{"replicas": Deref(s.Replicas) > 1, "scale": s.Scale != nil, "per_node": Deref(s.PerNode)} {
			if many {
				errs.Addf(field, "one pod at a time may write to volume %s: run one, mount it with read_only = true, or set stateful = {} for a volume each", name)
			}
		}
	}
	if u := s.Update; u != nil {
		errs.Add("update", u.validate(s))
	}
	return errs.Err()
}

// validateCount checks what says how many pods there are.
func (s AppSpec) validateCount() error {
	var errs Errors
	if n := s.Replicas; n != nil && (*n < 0 || *n > MaxReplicas) {
		errs.Addf("replicas", "%d is out of range: want 0 to %d", *n, MaxReplicas)
	}
	if s.Scale != nil {
		errs.Add("scale", s.Scale.validate())
		if s.Replicas != nil {
			errs.Addf("replicas", "scale decides how many pods run: leave one of the two out")
		}
	}
	if Deref(s.PerNode) {
		if s.Replicas != nil || s.Scale != nil {
			errs.Addf("per_node", "one pod per node, and a number of them, cannot both be: leave one out")
		}
		if s.Stateful != nil {
			errs.Addf("per_node", "pods of a stateful app have ordinals, not nodes: leave one of the two out")
		}
	}
	return errs.Err()
}

// WithDefaults fills in every unset field.
func (s AppSpec) WithDefaults() AppSpec {
	s.setTemplate(s.Template().withDefaults())
	if s.Stateful != nil {
		in := *s.Stateful
		in.OnIsolation, in.Order = cmp.Or(in.OnIsolation, "stop"), cmp.Or(in.Order, "ordered")
		s.Stateful = &in
	}
	u := Deref(s.Update)
	u.Strategy = cmp.Or(u.Strategy, "rolling")
	u.MaxParallel, u.Surge = or(u.MaxParallel, 1), or(u.Surge, s.defaultSurge())
	switch {
	case s.Scale != nil:
		in := s.Scale.withDefaults()
		s.Scale = &in
	case Deref(s.PerNode):
	default:
		s.Replicas = or(s.Replicas, 1)
		u.MinAvailable = or(u.MinAvailable, max(0, *s.Replicas-*u.MaxParallel))
	}
	u.HealthyFor, u.Deadline = cmp.Or(u.HealthyFor, "5s"), cmp.Or(u.Deadline, "5m")
	u.FailureBudget = or(u.FailureBudget, 0)
	u.OnFailure = cmp.Or(u.OnFailure, "rollback")
	s.Update = &u
	return s
}

// defaultSurge: two pods of one ordinal must never be, a node has no room for a
// second of a per_node app, and one pod at a time writes to a volume.
func (s AppSpec) defaultSurge() int {
	if s.Stateful != nil || Deref(s.PerNode) || s.Template().Writes() != "" {
		return 0
	}
	return 1
}

// Template returns what each pod of the app runs. Call it on an effective spec.
func (s AppSpec) Template() PodTemplate {
	return PodTemplate{
		Container: s.Container, Init: s.Init, Sidecars: s.Sidecars, Placement: s.Placement, Restart: s.Restart, Stop: s.Stop,
		HostNetwork: s.HostNetwork, Pull: s.Pull, PullAuth: s.PullAuth,
	}
}

func (s *AppSpec) setTemplate(t PodTemplate) {
	s.Container, s.Init, s.Sidecars, s.Placement, s.Restart, s.Stop = t.Container, t.Init, t.Sidecars, t.Placement, t.Restart, t.Stop
	s.HostNetwork, s.Pull, s.PullAuth = t.HostNetwork, t.Pull, t.PullAuth
}

// Revision is a short hash of what pods are made from, the template, the
// versions of the configs and secrets it uses, and when somebody last asked for
// a restart: a change of any is a rollout. The volumes of ordinals grow under
// the pods that use them, so their size is none of it. Call it on an effective spec.
func (s AppSpec) Revision(contents map[string]string, restarted time.Time) string {
	t := s.Template()
	if s.Stateful != nil {
		t = t.unsized()
	}
	return shortHash(struct {
		PodTemplate
		Contents  map[string]string `json:"contents,omitempty"`
		Restarted time.Time         `json:"restarted,omitzero"`
	}{t, contents, restarted})
}

// unsized is the template with the volumes of ordinals all of one size.
func (t PodTemplate) unsized() PodTemplate {
	t = Clone(t)
	for _, mounts := range t.AllMounts() {
		for at, m := range mounts {
			if m.Size != "" {
				m.Size = "1"
				mounts[at] = m
			}
		}
	}
	return t
}

// shortHash names a value by its JSON.
func shortHash(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // every api type marshals
	}
	sum := sha256.Sum256(b)
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:6]
}
