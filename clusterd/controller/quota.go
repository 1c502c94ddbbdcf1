package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// usedEvery is how often at most it is written what a namespace uses: the
// quota itself is kept by the API, from the objects.
const usedEvery = time.Second

// quotaRecheck is how often what found no quota is tried again.
const quotaRecheck = 10 * time.Second

// refusal is an error of a batch some of whose writes the quota has no room for.
type refusal struct {
	of  map[api.Ref]string // what it says of each
	err error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// overQuota makes a refusal of an error of a batch, if it is one.
func overQuota(part []write, err error) error {
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Code != api.Conflict {
		return err
	}
	of := map[api.Ref]string{}
	for _, f := range e.Fields {
		i, field := 0, ""
		if n, _ := fmt.Sscanf(f.Path, "writes[%d].%s", &i, &field); n < 2 || i >= len(part) {
			continue
		}
		ref := part[i].ref
		// Of what takes quota for its spec, no other field is ever in conflict.
		declares := ref.Kind == api.Apps.Name || ref.Kind == api.Volumes.Name
		if _, told := of[ref]; !told && (field == api.QuotaPath || declares) {
			of[ref] = f.Message
		}
	}
	if len(of) == 0 {
		return err
	}
	return &refusal{of, err}
}

// refused returns what of a batch the quota has no room for; nil if that is not
// why it failed.
func refused(err error) map[api.Ref]string {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.of
	}
	return nil
}

// denied reports whether the quota had no room for an object a moment ago.
func (r *rollout) denied(ref api.Ref) bool {
	why := r.see.refused[ref]
	if why == "" {
		return false
	}
	r.starved = cmp.Or(r.starved, why)
	r.sooner(quotaRecheck)
	return true
}

// anyOf returns what is said of the first, "" if there is none.
func anyOf(of map[api.Ref]string) string {
	if len(of) == 0 {
		return ""
	}
	return of[slices.MinFunc(slices.Collect(maps.Keys(of)), func(a, b api.Ref) int { return strings.Compare(a.String(), b.String()) })]
}

// account writes what a namespace uses.
func (l *namespaces) account(ctx context.Context, ns *api.Namespace) (time.Duration, error) {
	used := l.used(ns.Meta.Name).Used()
	if used == ns.Status.Used {
		return 0, nil
	}
	if wait := usedEvery - time.Since(l.told[ns.Meta.Name]); wait > 0 && wait <= usedEvery {
		return wait, nil
	}
	l.told[ns.Meta.Name] = time.Now()
	o := *ns
	o.Status.Used = used
	if _, err := l.namespaces.PutStatus(ctx, &o); err != nil && !gone(err) {
		return 0, fmt.Errorf("write what %s uses: %w", ns.Ref(), err)
	}
	return 0, nil
}

// used sums what the objects of a namespace are charged, as the API does.
func (l *namespaces) used(namespace string) (sum api.Charge) {
	for _, a := range l.caches.Apps.List() {
		if a.Meta.Namespace == namespace {
			sum = sum.Plus(taken(a.Effective.Charge(), a.Effective.Elastic(), func() []*api.Pod { return l.caches.Pods.By("app", namespace, a.Meta.Name) }))
		}
	}
	for _, j := range l.caches.Jobs.List() {
		if j.Meta.Namespace == namespace {
			sum = sum.Plus(taken(j.Effective.Charge(), j.Effective.Elastic(), func() []*api.Pod { return l.caches.Pods.By("job", namespace, j.Meta.Name) }))
		}
	}
	for _, v := range l.caches.Volumes.List() {
		if v.Meta.Namespace == namespace {
			sum = sum.Plus(v.Effective.Charge())
		}
	}
	return sum
}

// taken is a workload's charge: what it declares, or its pods where they may be
// more.
func taken(declared api.Charge, elastic bool, pods func() []*api.Pod) api.Charge {
	if !elastic {
		return declared
	}
	var live api.Charge
	for _, pod := range pods() {
		if !pod.Status.Phase.Ended() {
			live = live.Plus(pod.Spec.Charge())
		}
	}
	return declared.Most(live)
}

// elastic reports whether a pod's owner is charged by its pods.
func (l *namespaces) elastic(pod *api.Pod) bool {
	if a := l.caches.Apps.Get(pod.Meta.Namespace, pod.Spec.App); a != nil {
		return a.Effective.Elastic()
	}
	j := l.caches.Jobs.Get(pod.Meta.Namespace, pod.Spec.Job)
	return j != nil && j.Effective.Elastic()
}
