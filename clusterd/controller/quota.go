package controller

import (
	"context"
	"fmt"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// usedEvery is how often at most it is written what a namespace uses: the
// quota itself is kept by the API, from the objects.
const usedEvery = time.Second

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
