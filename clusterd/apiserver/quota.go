package apiserver

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// A namespace's quota is consumed in the transaction of the write that asks for
// more. What is used is summed from the objects, each time: a counter could
// drift. Whoever asks for more reads and writes the namespace's guard key, so
// two writes that each fit but not both cannot both commit. Who asks for less,
// or the same, is never refused: a quota may be lowered below what is used.

// declaredCharge returns what an object takes of its namespace's quota, and
// whether its pods may be more than that.
func declaredCharge(typed api.Any) (c api.Charge, elastic, ok bool) {
	switch v := typed.(type) {
	case *api.App:
		return v.Effective.Charge(), v.Effective.Elastic(), true
	case *api.Job:
		return v.Effective.Charge(), v.Effective.Elastic(), true
	case *api.Volume:
		return v.Effective.Charge(), false, true
	}
	return c, false, false
}

// takesQuota reports whether objects of a kind are charged.
func takesQuota(k *kind) bool {
	return slices.ContainsFunc(charged, func(row struct{ plural, index string }) bool { return row.plural == k.info.Plural })
}

// charged are the kinds whose objects take quota, with the index of their pods.
var charged = []struct{ plural, index string }{{"apps", "app"}, {"jobs", "job"}, {"volumes", ""}}

// chargeSpec charges a new spec, and refuses one that the quota does not allow
// to grow.
func (t *txn) chargeSpec(old, o *object, typed api.Any) error {
	c, elastic, ok := declaredCharge(typed)
	if !ok {
		return nil
	}
	var was api.Charge
	if old != nil {
		was = old.charge
	}
	o.charge, o.elastic = c, elastic
	fields, err := t.overQuota(o.meta.Namespace, o.key, was, c, quotaField(typed), perPod(typed))
	if err != nil {
		return err
	}
	return beyondQuota(o, fields)
}

// beyondQuota is the refusal of what the quota has no room for.
func beyondQuota(o *object, fields api.Errors) error {
	if fields == nil {
		return nil
	}
	e := conflict(api.Conflict, o.ref(), "the quota does not allow it")
	e.Fields = fields
	return e
}

// chargePod charges a pod whose owner's pods may be more than it declares.
func (t *txn) chargePod(o *object, pod *api.Pod) error {
	owner := ""
	switch {
	case pod.Spec.App != "":
		owner = t.s.kinds["apps"].key(pod.Meta.Namespace, pod.Spec.App)
	case pod.Spec.Job != "":
		owner = t.s.kinds["jobs"].key(pod.Meta.Namespace, pod.Spec.Job)
	}
	if owner == "" {
		return nil
	}
	by := t.read(owner) // an old view may not show it
	if by == nil || !by.elastic {
		return nil
	}
	was := t.taken(by)
	t.made[owner] = t.made[owner].Plus(pod.Spec.Charge())
	path := func(string) string { return api.QuotaPath }
	fields, err := t.overQuota(pod.Meta.Namespace, owner, was, t.taken(by), path, pod.Spec.PodTemplate)
	if err != nil {
		return err
	}
	return beyondQuota(o, fields)
}

// overQuota returns what of a charge the namespace's quota does not allow: of
// what grows, that which does not fit beside what all others take.
func (t *txn) overQuota(namespace, key string, was, c api.Charge, path func(resource string) string, pod api.PodTemplate) (api.Errors, error) {
	if !c.Grows(was) {
		return nil, nil
	}
	ns := t.read(t.s.kinds["namespaces"].key("", namespace))
	if ns == nil {
		return nil, nil // what is created there is refused for that
	}
	var spec api.NamespaceSpec
	if err := json.Unmarshal(ns.effective, &spec); err != nil {
		return nil, fmt.Errorf("decode effective of %s: %w", ns.ref(), err)
	}
	q := spec.Quota
	if q == nil {
		return nil, nil
	}
	guard := guardPrefix + "quota/" + namespace
	t.read(guard)
	t.set(guard, []byte(`{}`))
	return exceeds(*q, namespace, t.others(namespace, key), was, c, path, pod), nil
}

// quotaEffect says what a write does to the quota of its namespace, whether the
// quota allows it or not.
func (t *txn) quotaEffect(p *writePlan, in *incoming, was *object) error {
	ns := t.peek(t.s.kinds["namespaces"].key("", in.meta.Namespace))
	if ns == nil {
		return nil
	}
	var spec struct{ Quota *api.Quota }
	if err := json.Unmarshal(ns.effective, &spec); err != nil || spec.Quota == nil {
		return err
	}
	o := &object{kind: in.kind, meta: in.meta, spec: in.spec}
	typed, err := o.typed()
	if err != nil {
		return err
	}
	if err := t.applyDefaults(o, typed); err != nil {
		return err
	}
	o.key = in.kind.key(in.meta.Namespace, in.meta.Name)
	o.charge, o.elastic, _ = declaredCharge(typed)
	others := t.others(in.meta.Namespace, o.key)
	before := others
	if was != nil {
		before = others.Plus(t.taken(was))
	}
	p.Quota = spec.Quota.Effect(before, others.Plus(t.taken(o)))
	return nil
}

// quotaField returns how a kind says which of its fields asks for too much.
func quotaField(typed api.Any) func(resource string) string {
	switch v := typed.(type) {
	case *api.App:
		return v.Spec.QuotaField
	case *api.Job:
		return v.Spec.QuotaField
	}
	return api.VolumeSpec{}.QuotaField
}

// exceeds compares what grows with what is left. It says what would fit.
func exceeds(q api.Quota, namespace string, others, was, c api.Charge, path func(string) string, pod api.PodTemplate) (errs api.Errors) {
	cpu, memory := pod.Requests()
	left := func(limit, used int64) int64 { return max(limit-used, 0) }
	check := func(resource string, limit, used, before, now int64, text func(int64) string, unit, each string) {
		if now <= before || used+now <= limit {
			return
		}
		what := fmt.Sprintf("%d pods of %s%s are %s", c.Replicas, each, unit, text(now))
		if each == "" {
			what = fmt.Sprintf("wants %s%s", text(now), unit)
		}
		errs.Addf(path(resource), "%s; namespace %s has %s of %s%s left: ask for less, or have its quota.%s raised",
			what, namespace, text(left(limit, used)), text(limit), unit, resource)
	}
	count := func(n int64) string { return fmt.Sprint(n) }
	if q.CPU != "" {
		check("cpu", q.CPU.Milli(), others.CPU, was.CPU, c.CPU, api.Cores, " cpu", api.Cores(cpu))
	}
	if q.Memory != "" {
		check("memory", q.Memory.Bytes(), others.Memory, was.Memory, c.Memory, api.Size, " memory", api.Size(memory))
	}
	if q.Replicas != nil {
		check("replicas", int64(*q.Replicas), others.Replicas, was.Replicas, c.Replicas, count, " pods", "")
	}
	if q.Volumes != nil {
		check("volumes", int64(*q.Volumes), others.Volumes, was.Volumes, c.Volumes, count, " volumes", "")
	}
	if q.Storage != "" {
		check("storage", q.Storage.Bytes(), others.Storage, was.Storage, c.Storage, api.Size, " storage", "")
	}
	return errs
}

// others sums what all objects of a namespace take but the one at key, as the
// transaction leaves them.
func (t *txn) others(namespace, key string) (sum api.Charge) {
	for _, row := range charged {
		k := t.s.kinds[row.plural]
		add := func(o *object) {
			if o != nil && o.key != key {
				sum = sum.Plus(t.taken(o))
			}
		}
		t.snap.each(k.prefix(namespace), "", func(o *object) bool {
			add(t.peek(o.key))
			return true
		})
		for at, o := range t.staged {
			if o != nil && o.kind == k && o.meta.Namespace == namespace && t.snap.get(at) == nil {
				add(o)
			}
		}
	}
	return sum
}

// taken returns what an object takes: what it declares, or its pods where they
// may be more.
func (t *txn) taken(o *object) api.Charge {
	if !o.elastic {
		return o.charge
	}
	live := t.made[o.key]
	for _, row := range charged {
		if row.plural != o.kind.info.Plural {
			continue
		}
		t.snap.eachWhere(t.s.kinds["pods"], row.index, o.meta.Name, func(p *object) bool {
			if now, staged := t.staged[p.key]; p.meta.Namespace == o.meta.Namespace && p.load.pods > 0 && (!staged || now != nil) {
				live = live.Plus(api.Charge{CPU: p.load.cpu, Memory: p.load.memory, Replicas: 1})
			}
			return true
		})
	}
	return o.charge.Most(live)
}

// perPod returns what each pod of a workload runs.
func perPod(typed api.Any) api.PodTemplate {
	switch v := typed.(type) {
	case *api.App:
		return v.Effective.Template()
	case *api.Job:
		return v.Effective.PodTemplate
	}
	return api.PodTemplate{}
}

// applyDefaults fills what a workload's containers do not say from its
// namespace, for as long as its spec stays.
func (t *txn) applyDefaults(o *object, typed api.Any) error {
	if !takesQuota(o.kind) {
		return nil
	}
	ns := t.read(t.s.kinds["namespaces"].key("", o.meta.Namespace))
	if ns == nil {
		return nil
	}
	var spec struct{ Defaults *api.Defaults }
	if err := json.Unmarshal(ns.effective, &spec); err != nil {
		return fmt.Errorf("decode effective of %s: %w", ns.ref(), err)
	}
	switch v := typed.(type) {
	case *api.App:
		v.Effective = api.Clone(v.Spec).In(spec.Defaults).WithDefaults()
	case *api.Job:
		v.Effective = api.Clone(v.Spec).In(spec.Defaults).WithDefaults()
	}
	return nil
}
