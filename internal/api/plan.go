package api

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// WritePlan is what POST …/{name}/plan answers: what writing the object of the
// body would do. Nothing is written.
type WritePlan struct {
	Errors    []FieldError      `json:"errors,omitempty" doc:"Why the write would be refused, whenever it comes."`
	Warnings  []PlanWarning     `json:"warnings,omitempty" doc:"What the write would meet now; it may be different by the time of it."`
	Changes   []Change          `json:"changes,omitempty" doc:"How the declared spec differs from what is there."`
	Rolls     *Rolls            `json:"rolls,omitempty" doc:"Pods that the change would replace."`
	Runs      bool              `json:"runs,omitempty" doc:"The change starts a run of the job."`
	Quota     []QuotaEffect     `json:"quota,omitempty" doc:"What it takes of its namespace's quota."`
	Images    map[string]string `json:"images,omitempty" doc:"Digests of its images, by the reference that is declared. They are kept: a write of the same references within a day gets the same."`
	Placement *PlanPlacement    `json:"placement,omitempty" doc:"Whether the pods would find nodes."`
}

// PlanWarning is something to know before a write.
type PlanWarning struct {
	Path    string `json:"path,omitempty" doc:"Field it is about."`
	Summary string `json:"summary"`
	Message string `json:"message"`
	Lacks   Ref    `json:"lacks,omitzero" doc:"What does not exist yet: a write of it may be planned as well."`
}

// Change is one field that differs. Without From it is new, without To it goes.
type Change struct {
	Path string          `json:"path"`
	From json.RawMessage `json:"from,omitempty"`
	To   json.RawMessage `json:"to,omitempty"`
}

func (c Change) String() string {
	switch {
	case c.From == nil:
		return fmt.Sprintf("+ %s = %s", c.Path, c.To)
	case c.To == nil:
		return fmt.Sprintf("- %s = %s", c.Path, c.From)
	}
	return fmt.Sprintf("~ %s = %s -> %s", c.Path, c.From, c.To)
}

// Rolls is what a change of an app's template does to its pods.
type Rolls struct {
	Pods        int    `json:"pods" doc:"How many are replaced."`
	MaxParallel int    `json:"max_parallel" doc:"How many at a time."`
	Strategy    string `json:"strategy" enum:"rolling,recreate"`
	Outage      bool   `json:"outage" doc:"No pod serves for a while."`
}

func (r Rolls) String() string {
	pods := "pods roll"
	if r.Pods == 1 {
		pods = "pod rolls"
	}
	if r.Strategy == "recreate" {
		return fmt.Sprintf("%d %s: all end before new ones start", r.Pods, pods)
	}
	return fmt.Sprintf("%d %s, %d at a time", r.Pods, pods, r.MaxParallel)
}

// QuotaEffect is what a write does to one resource of its namespace's quota.
type QuotaEffect struct {
	Resource string `json:"resource" enum:"cpu,memory,replicas,volumes,storage"`
	Before   string `json:"before" doc:"What the namespace is charged now."`
	After    string `json:"after" doc:"What it would be charged."`
	Limit    string `json:"limit" doc:"What it may be charged."`
	Exceeded bool   `json:"exceeded,omitempty" doc:"The cluster would refuse the write for it."`
}

func (q QuotaEffect) String() string {
	s := fmt.Sprintf("%s: %s -> %s of %s", q.Resource, q.Before, q.After, q.Limit)
	if q.Exceeded {
		s += ", which is too much"
	}
	return s
}

// PlanPlacement is whether pods would find nodes, by the scheduler's own word.
type PlanPlacement struct {
	Wanted  int               `json:"wanted" doc:"Pods the object wants."`
	Fits    int               `json:"fits" doc:"Of them, those that run or would find a node now."`
	Message string            `json:"message,omitempty" doc:"Why the others would not."`
	Reasons []PlacementReason `json:"reasons,omitempty" doc:"The same, one by one."`
	// Nodes is only there when it is asked for.
	Nodes map[string]string `json:"nodes,omitempty" doc:"By node, why a pod cannot run there now; empty where it can. With ?nodes=true."`
}

// PlacementReason is one reason for which nodes do not fit.
type PlacementReason struct {
	Nodes  int    `json:"nodes" doc:"How many nodes."`
	Reason string `json:"reason" doc:"With their number, such as: 2 are cordoned."`
}

// Changes says how two declared specs differ, field by field, in the order of
// their paths; a list is one value.
func Changes(was, is json.RawMessage, path string) []Change {
	from, fromIs := fieldsOf(was)
	to, toIs := fieldsOf(is)
	if !fromIs || !toIs {
		if same(was, is) {
			return nil
		}
		return []Change{{path, was, is}}
	}
	keys := map[string]bool{}
	for k := range from {
		keys[k] = true
	}
	for k := range to {
		keys[k] = true
	}
	var out []Change
	for _, k := range sortedKeys(keys) {
		at := join(path, keyPath(k))
		a, b := from[k], to[k]
		switch _, nested := fieldsOf(b); {
		case a == nil && nested && len(b) > 2:
			out = append(out, Changes(json.RawMessage(`{}`), b, at)...)
		case a == nil:
			out = append(out, Change{Path: at, To: b})
		case b == nil:
			out = append(out, Change{Path: at, From: a})
		default:
			out = append(out, Changes(a, b, at)...)
		}
	}
	return out
}

func fieldsOf(raw json.RawMessage) (map[string]json.RawMessage, bool) {
	if trimmed := bytes.TrimSpace(raw); len(trimmed) == 0 || trimmed[0] != '{' {
		return nil, len(trimmed) == 0
	}
	var m map[string]json.RawMessage
	err := json.Unmarshal(raw, &m)
	return m, err == nil
}

func same(a, b json.RawMessage) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}
