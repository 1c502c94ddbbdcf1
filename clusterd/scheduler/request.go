package scheduler

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// request is what one pod asks for. Pods with equal keys ask for the same; a
// field that a filter looks at is part of the key.
type request struct {
	key      string
	group    group
	cpu, mem int64
	priority int
	target   string // the only node it may go to; "" is any

	require, prefer map[string]string
	tolerate        []string
	spread          string
	maxSkew         int32 // 0: spread is a preference
	onePer          string
	affinity, anti  []relation

	namespace string
	uses      []api.VolumeUse // by namespace/name
	ports     []api.Port      // of the node's own
}

// relation is a wish about another app's pods in a domain.
type relation struct{ app, domain string }

// group is whom a pod shares its work with: all pods of its app, and among
// them those of its revision, which are the ones that stay.
type group struct{ app, revision string }

func groupOf(namespace, owner, revision string) group {
	name := namespace + "/" + owner
	return group{name, name + "@" + revision}
}

// jobPrefix tells jobs from apps of the same name.
const jobPrefix = "job/"

// ownerOf names whom a pod belongs to, within its namespace.
func ownerOf(pod *api.Pod) string {
	if pod.Spec.Job != "" {
		return jobPrefix + pod.Spec.Job
	}
	return cmp.Or(pod.Spec.App, "pod/"+pod.Meta.Name)
}

func requestOfPod(pod *api.Pod) *request {
	r := requestOf(pod.Meta.Namespace, ownerOf(pod), pod.Spec.Revision, &pod.Spec.PodTemplate)
	if r.target = pod.Spec.Target; r.target != "" {
		r.key += " on " + r.target
	}
	return r
}

// elsewhere reports whether a node is not the one that is asked for.
func (r *request) elsewhere(node string) bool { return r.target != "" && r.target != node }

func requestOf(namespace, owner, revision string, t *api.PodTemplate) *request {
	r := &request{group: groupOf(namespace, owner, revision), priority: api.DefaultPriority}
	r.cpu, r.mem = t.Requests()
	r.namespace, r.uses = namespace, usesOf(namespace, t)
	r.ports = t.NodePorts()
	r.key = fmt.Sprintf("%s %d %d %v %v", r.group.revision, r.cpu, r.mem, r.uses, r.ports)
	at := t.Placement
	if at == nil {
		return r
	}
	r.require, r.prefer, r.tolerate = at.Require, at.Prefer, at.Tolerate
	r.spread, r.maxSkew, r.onePer = at.Spread, int32(api.Deref(at.MaxSkew)), at.OnePer
	r.affinity, r.anti = relations(namespace, at.Affinity), relations(namespace, at.AntiAffinity)
	if at.Priority != nil {
		r.priority = *at.Priority
	}
	words, err := json.Marshal(at)
	if err != nil {
		panic(err) // strings and numbers
	}
	r.key += string(words)
	return r
}

// hopes names whose pods may make room for the request by coming: those it
// wants to be with, and its own that fill the emptiest domain.
func (r *request) hopes() (sorts []string) {
	for _, rel := range r.affinity {
		sorts = append(sorts, rel.app)
	}
	if r.maxSkew > 0 {
		sorts = append(sorts, r.group.revision)
	}
	return sorts
}

// portSort names the pods that take a port of their node; no group has a space.
func portSort(p api.Port) string { return "port " + string(p) }

// relations orders wishes about apps of the same namespace.
func relations(namespace string, domains map[string]string) (out []relation) {
	for _, app := range slices.Sorted(maps.Keys(domains)) {
		out = append(out, relation{namespace + "/" + app, domains[app]})
	}
	return out
}
