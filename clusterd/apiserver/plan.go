package apiserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Planner says whether pods would find nodes. The composition root hands it
// in: it is the scheduler's own code.
type Planner interface {
	// Place tries the pods that an app, or a run of a job, wants as it is to be;
	// with nodes it says of each node whether one could run there.
	Place(ctx context.Context, o api.Any, nodes bool) (*api.PlanPlacement, error)
	// Rebalance says which pods to move, of those that may, so that apps are
	// spread again and the fullest nodes have less to do.
	Rebalance(ctx context.Context, movable func(*api.Pod) bool) (*api.Rebalance, error)
}

// planned are the kinds that have pods, and so more to say about a write than
// whether it is valid.
var planned = []string{api.Apps.Name, api.Jobs.Name}

// servePlan answers POST of an object that is to be written with what the write
// would do.
func (s *Server) servePlan(w http.ResponseWriter, r *request) error {
	if err := allow(r.by, r.to(api.VerbPlan, nil)); err != nil {
		return err
	}
	if _, err := r.key(); err != nil {
		return err
	}
	raw, err := readBody(w, r, api.MaxObject)
	if err != nil {
		return err
	}
	p, revision, err := s.planWrite(r.Context(), r.by, r.kind, r.PathValue("namespace"), r.PathValue("name"), raw, r.flag("nodes"))
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, revision, marshal(p.WritePlan))
	return nil
}

// planWrite tries a write on the newest state, and asks the planner about what
// would come of it.
func (s *Server) planWrite(ctx context.Context, by caller, k *kind, namespace, name string, raw []byte, nodes bool) (p writePlan, revision int64, err error) {
	in, err := openSpec(k, namespace, name, raw)
	if err != nil {
		return p, s.revision(), p.refuse(err)
	}
	var was, is *object
	var images pinning
	var lacks []api.ContentUse
	revision, err = s.dryRun(ctx, by, func(t *txn) (err error) {
		was = t.peek(k.key(namespace, name))
		t.images.off = nodes // it is asked where pods would run, of what
		is, _, err = t.putSpec(in, precondition{})
		images = t.images
		if err == nil {
			lacks, err = t.lacking(is)
		}
		return cmp.Or(t.quotaEffect(&p, in, was), err)
	})
	declared := json.RawMessage(`{}`)
	if was != nil {
		declared = was.spec
	}
	p.Changes = api.Changes(declared, in.spec, "spec")
	if err != nil {
		return p, cmp.Or(revision, s.revision()), p.refuse(err)
	}
	next, err := is.typed()
	if err != nil {
		return p, revision, err
	}
	var before api.Any
	if was != nil {
		if before, err = was.typed(); err != nil {
			return p, revision, err
		}
	}
	if err := s.planImages(ctx, by, is, images, &p); err != nil {
		return p, revision, err
	}
	p.warnOfContents(is.meta.Namespace, lacks)
	switch v := next.(type) {
	case *api.App:
		old, _ := before.(*api.App)
		p.roll(old, v)
	case *api.Job:
		old, _ := before.(*api.Job)
		p.Runs = v.Spec.Schedule == "" && !api.Deref(v.Spec.Suspend) && (old == nil || v.Effective.Revision() != old.Status.Revision)
	}
	if s.cfg.Planner == nil {
		return p, revision, nil
	}
	if p.Placement, err = s.cfg.Planner.Place(ctx, next, nodes); err != nil {
		return p, revision, fmt.Errorf("ask the scheduler about %s: %w", is.ref(), err)
	}
	p.warnOfRoom(next)
	return p, revision, nil
}

// revision is what this server has seen.
func (s *Server) revision() int64 {
	if now := s.cache.now.Load(); now != nil {
		return now.revision
	}
	return 0
}

// writePlan is an api.WritePlan in the making.
type writePlan struct{ api.WritePlan }

// refuse files a refusal: what no other write can mend is an error, what may be
// different later a warning. What is neither is returned.
func (p *writePlan) refuse(err error) error {
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return err
	}
	switch e.Code {
	case api.Invalid:
		p.Errors = append(p.Errors, e.Fields...)
		if len(e.Fields) == 0 {
			p.Errors = append(p.Errors, api.FieldError{Message: e.Message})
		}
		return nil
	case api.Conflict, api.Precondition, api.NotFound:
		const summary = "The cluster would refuse this now"
		for _, f := range e.Fields {
			p.Warnings = append(p.Warnings, api.PlanWarning{Path: f.Path, Summary: summary, Message: e.At(f)})
		}
		if len(e.Fields) == 0 {
			p.Warnings = append(p.Warnings, api.PlanWarning{Summary: summary, Message: e.Error()})
		}
		return nil
	}
	return err
}

// roll says what the change does to the pods that are there.
func (p *writePlan) roll(was, is *api.App) {
	if was == nil || was.Effective.Revision(nil, time.Time{}) == is.Effective.Revision(nil, time.Time{}) || was.Status.Replicas == 0 {
		return
	}
	u := api.Deref(is.Effective.Update)
	p.Rolls = &api.Rolls{Pods: was.Status.Replicas, MaxParallel: max(api.Deref(u.MaxParallel), 1), Strategy: u.Strategy,
		Outage: u.Strategy == "recreate" || api.Deref(u.Surge) == 0 && u.MinAvailable != nil && *u.MinAvailable == 0}
	if p.Rolls.Outage {
		way := "With strategy = \"rolling\" and surge = 1 new pods are ready before old ones go."
		switch volume := is.Effective.Template().Writes(); {
		case is.Spec.Stateful != nil || api.Deref(is.Spec.PerNode):
			way = "There is no second pod of the same place: with more of them, max_parallel below their number leaves some."
		case volume != "":
			way = "One pod at a time writes to volume " + volume + ", so the old one ends before the new one starts."
		}
		p.Warnings = append(p.Warnings, api.PlanWarning{Path: "spec.update", Summary: p.Rolls.String(),
			Message: "While they do, no pod serves. " + way})
	}
}

// lacking lists where an object asks for configs and secrets that do not exist.
func (t *txn) lacking(o *object) (out []api.ContentUse, err error) {
	declared, _, err := templatesOf(o)
	if err != nil {
		return nil, err
	}
	for _, use := range declared.ContentUses() {
		ref := api.ContentRef(o.meta.Namespace, use.Of)
		k, err := t.s.kindOf(ref.Kind)
		if err != nil {
			return nil, err
		}
		told := slices.ContainsFunc(out, func(u api.ContentUse) bool { return u.Of == use.Of })
		if !told && t.peek(k.key(ref.Namespace, ref.Name)) == nil {
			out = append(out, use)
		}
	}
	return out, nil
}

// warnOfContents tells of what the pods would wait for.
func (p *writePlan) warnOfContents(namespace string, lacks []api.ContentUse) {
	for _, use := range lacks {
		ref := api.ContentRef(namespace, use.Of)
		p.Warnings = append(p.Warnings, api.PlanWarning{Path: "spec." + use.At, Summary: ref.Kind + " " + ref.Name + " does not exist yet",
			Message: "No pod of this runs before it does.", Lacks: ref})
	}
}

// warnOfRoom tells of pods that would find no node.
func (p *writePlan) warnOfRoom(o api.Any) {
	at := p.Placement
	if at == nil || at.Fits >= at.Wanted {
		return
	}
	field := "spec.image"
	switch v := o.(type) {
	case *api.App:
		switch {
		case v.Spec.Scale != nil:
			field = "spec.scale.min"
		case api.Deref(v.Spec.PerNode):
			field = "spec.per_node"
		case v.Spec.Replicas != nil:
			field = "spec.replicas"
		}
	case *api.Job:
		if v.Spec.Parallelism != nil {
			field = "spec.parallelism"
		}
	}
	p.Warnings = append(p.Warnings, api.PlanWarning{Path: field, Summary: fmt.Sprintf("%d of %d pods fit now", at.Fits, at.Wanted), Message: at.Message})
}
