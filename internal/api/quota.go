package api

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Charge is what objects take of their namespace's quota. It follows from the
// objects alone, so it cannot drift from them.
type Charge struct {
	CPU, Memory       int64 // thousandths of a core, and bytes
	Replicas, Volumes int64
	Storage           int64 // bytes
}

// Used is a Charge as a status says it.
type Used struct {
	CPU      CPU    `json:"cpu,omitempty" doc:"Processor time that is charged."`
	Memory   Memory `json:"memory,omitempty" doc:"Memory that is charged."`
	Replicas int64  `json:"replicas,omitempty" doc:"Pods that are charged."`
	Volumes  int64  `json:"volumes,omitempty" doc:"Volumes there are."`
	Storage  Memory `json:"storage,omitempty" doc:"Sizes of volumes."`
}

// Plus returns the sum of both.
func (c Charge) Plus(d Charge) Charge {
	return Charge{c.CPU + d.CPU, c.Memory + d.Memory, c.Replicas + d.Replicas, c.Volumes + d.Volumes, c.Storage + d.Storage}
}

// Minus returns what c has more than d.
func (c Charge) Minus(d Charge) Charge {
	return Charge{c.CPU - d.CPU, c.Memory - d.Memory, c.Replicas - d.Replicas, c.Volumes - d.Volumes, c.Storage - d.Storage}
}

// Most returns the larger of both, one by one.
func (c Charge) Most(d Charge) Charge {
	return Charge{max(c.CPU, d.CPU), max(c.Memory, d.Memory), max(c.Replicas, d.Replicas), max(c.Volumes, d.Volumes), max(c.Storage, d.Storage)}
}

// Grows reports whether any of it is more than in was.
func (c Charge) Grows(was Charge) bool { return c.Most(was) != was }

// Used returns the charge in words.
func (c Charge) Used() Used {
	u := Used{Replicas: c.Replicas, Volumes: c.Volumes}
	if c.CPU > 0 {
		u.CPU = CPU(Cores(c.CPU))
	}
	if c.Memory > 0 {
		u.Memory = Memory(Size(c.Memory))
	}
	if c.Storage > 0 {
		u.Storage = Memory(Size(c.Storage))
	}
	return u
}

// Charge returns what the words say.
func (u Used) Charge() Charge {
	return Charge{CPU: u.CPU.Milli(), Memory: u.Memory.Bytes(), Replicas: u.Replicas, Volumes: u.Volumes, Storage: u.Storage.Bytes()}
}

// Effect says what a charge of a quota becomes, for what the quota limits and
// the change touches.
func (q Quota) Effect(before, after Charge) (out []QuotaEffect) {
	count := func(n int64) string { return fmt.Sprint(n) }
	say := func(resource string, limited bool, limit, was, is int64, text func(int64) string) {
		if limited && was != is {
			out = append(out, QuotaEffect{resource, text(was), text(is), text(limit), is > was && is > limit})
		}
	}
	say("cpu", q.CPU != "", q.CPU.Milli(), before.CPU, after.CPU, Cores)
	say("memory", q.Memory != "", q.Memory.Bytes(), before.Memory, after.Memory, Size)
	say("replicas", q.Replicas != nil, int64(Deref(q.Replicas)), before.Replicas, after.Replicas, count)
	say("volumes", q.Volumes != nil, int64(Deref(q.Volumes)), before.Volumes, after.Volumes, count)
	say("storage", q.Storage != "", q.Storage.Bytes(), before.Storage, after.Storage, Size)
	return out
}

// column says what is used, and of what there is a limit, that too.
func (q Quota) column(u Used) string {
	limit := func(n *int) string {
		if n == nil {
			return ""
		}
		return "/" + strconv.Itoa(*n)
	}
	of := func(amount string) string {
		if amount == "" {
			return ""
		}
		return "/" + amount
	}
	var parts []string
	for _, r := range []struct{ name, used, limit string }{
		{"cpu", string(u.CPU), of(string(q.CPU))}, {"memory", string(u.Memory), of(string(q.Memory))},
		{"replicas", strconv.FormatInt(u.Replicas, 10), limit(q.Replicas)},
		{"volumes", strconv.FormatInt(u.Volumes, 10), limit(q.Volumes)}, {"storage", string(u.Storage), of(string(q.Storage))},
	} {
		if used := cmp.Or(r.used, "0"); used != "0" || r.limit != "" {
			parts = append(parts, r.name+" "+used+r.limit)
		}
	}
	return dash(strings.Join(parts, ", "))
}

// Cores says thousandths of a core as people do: 500m, 1.2, 4.
func Cores(milli int64) string {
	if milli != 0 && milli < 1000 && milli > -1000 {
		return fmt.Sprintf("%dm", milli)
	}
	return strconv.FormatFloat(float64(milli)/1000, 'f', -1, 64)
}

// Size says bytes as people do: 64Mi, 2Gi.
func Size(bytes int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10}} {
		if bytes != 0 && bytes%u.size == 0 {
			return fmt.Sprintf("%d%s", bytes/u.size, u.name)
		}
	}
	return fmt.Sprint(bytes)
}

// pods is the charge of n pods of the template.
func (t PodTemplate) pods(n int) Charge {
	cpu, memory := t.Requests()
	return Charge{CPU: int64(n) * cpu, Memory: int64(n) * memory, Replicas: int64(n)}
}

// Charge returns what the app takes for its declaration: of a per_node app
// nothing, for its pods are charged as they are made. Surge is free. Call it on
// an effective spec.
func (s AppSpec) Charge() Charge {
	n := Deref(s.Replicas)
	if s.Scale != nil {
		n = max(n, s.Scale.Max)
	}
	return s.Template().pods(n)
}

// Elastic reports whether the app's pods may be more than it declares.
func (s AppSpec) Elastic() bool { return Deref(s.PerNode) }

// Charge returns what the job takes for its declaration, whether it runs or
// not: the pods of one run. Call it on an effective spec.
func (s JobSpec) Charge() Charge { return s.pods(s.Width()) }

// Elastic reports whether the job's pods may be more than it declares: its runs
// may overlap.
func (s JobSpec) Elastic() bool { return s.Concurrency == ConcurrencyAllow }

// Charge returns what a pod takes where its owner is elastic. One that ended
// takes nothing.
func (s PodSpec) Charge() Charge { return s.pods(1) }

// Charge returns what the volume takes. Call it on an effective spec.
func (s VolumeSpec) Charge() Charge { return Charge{Volumes: 1, Storage: s.Size.Bytes()} }

// QuotaField returns the field that asks for too much of a resource: the number
// of pods where it is declared, else what each of them takes.
func (s AppSpec) QuotaField(resource string) string {
	switch {
	case s.Scale != nil:
		return "spec.scale.max"
	case s.Replicas == nil && (resource == "cpu" || resource == "memory"):
		return "spec." + resource
	}
	return "spec.replicas"
}

// QuotaField returns the field that asks for too much of a resource.
func (s JobSpec) QuotaField(resource string) string {
	if s.Parallelism == nil && (resource == "cpu" || resource == "memory") {
		return "spec." + resource
	}
	return "spec.parallelism"
}

// QuotaField returns the field that asks for too much of a resource.
func (s VolumeSpec) QuotaField(string) string { return "spec.size" }

// In returns the spec with the namespace's defaults where it says nothing.
func (s AppSpec) In(d *Defaults) AppSpec {
	s.setTemplate(s.Template().in(d))
	return s
}

// In returns the spec with the namespace's defaults where it says nothing.
func (s JobSpec) In(d *Defaults) JobSpec {
	s.PodTemplate = s.in(d)
	return s
}

// in fills what containers do not say from the namespace's defaults. The maps
// of t are changed.
func (t PodTemplate) in(d *Defaults) PodTemplate {
	if d == nil {
		return t
	}
	fill := func(cpu *CPU, memory *Memory) {
		if *cpu == "" {
			*cpu = d.CPU
		}
		if *memory == "" {
			*memory = d.Memory
		}
	}
	fill(&t.CPU, &t.Memory)
	for name, c := range t.Sidecars {
		fill(&c.CPU, &c.Memory)
		t.Sidecars[name] = c
	}
	for name, c := range t.Init {
		fill(&c.CPU, &c.Memory)
		t.Init[name] = c
	}
	return t
}
