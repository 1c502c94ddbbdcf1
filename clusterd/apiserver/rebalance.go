package apiserver

import (
	"net/http"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// serveRebalance answers POST /v1/rebalance: it asks the scheduler which pods
// would be better off elsewhere, and marks them to be moved. Their apps do so,
// as fast as their update lets them.
func (s *Server) serveRebalance(w http.ResponseWriter, r *request) error {
	pods, query := s.kinds["pods"], r.URL.Query()
	if err := allow(r.by, ask{verb: api.VerbMove, kind: pods, namespace: query.Get("namespace")}); err != nil {
		return err
	}
	if s.cfg.Planner == nil {
		return api.Errorf(api.Unready, "this server has no scheduler to ask")
	}
	snap, err := s.snapshot(r)
	if err != nil {
		return err
	}
	plan, err := s.cfg.Planner.Rebalance(r.Context(), func(pod *api.Pod) bool {
		ns := query.Get("namespace")
		return (ns == "" || ns == pod.Meta.Namespace) && pod.Status.Move.Over(api.Now()) && s.settled(snap, pod)
	})
	if err != nil {
		return err
	}
	if query.Get("dry_run") == "true" || len(plan.Moves) == 0 {
		answer(w, http.StatusOK, snap.revision, marshal(plan))
		return nil
	}
	revision, err := s.commit(r.Context(), r.by, func(t *txn) error {
		for _, m := range plan.Moves {
			if err := t.mark(m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, revision, marshal(plan))
	return nil
}

// settled reports whether an app has nothing else to do than to move its pods: a
// rollout places them anew anyway.
func (s *Server) settled(snap *snapshot, pod *api.Pod) bool {
	app, err := typedOf[*api.App](snap, s.kinds["apps"].key(pod.Meta.Namespace, pod.Spec.App))
	return err == nil && app != nil && !app.Meta.Deleting() && app.Status.ObservedGeneration == app.Meta.Generation && app.Status.Rollout.Phase == api.RolloutComplete
}

// mark asks for the move of a pod, unless it is gone.
func (t *txn) mark(m api.PodMove) error {
	k := t.s.kinds["pods"]
	key := k.key(m.Namespace, m.Pod)
	if o := t.read(key); o == nil || o.meta.UID != m.UID || o.meta.Deleting() {
		return nil
	}
	status := marshal(api.PodStatus{Move: &api.Move{At: t.now, Why: "rebalance"}})
	in := &incoming{kind: k, meta: api.Meta{Namespace: m.Namespace, Name: m.Pod, UID: m.UID}, status: status}
	_, err := t.putStatus(key, in, "move")
	return err
}
