package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// Forecast answers whether pods would find nodes, from a picture of its own
// that it keeps current: with the filters and scores that will place them.
type Forecast struct {
	nodes *reconcile.Cache[*api.Node]
	pods  *reconcile.Cache[*api.Pod]

	mu      sync.Mutex
	picture *picture
	byApp   map[string]map[string]*api.Pod // pods by app and UID
}

// NewForecast returns one that follows the caches, which the caller runs.
func NewForecast(nodes *reconcile.Cache[*api.Node], pods *reconcile.Cache[*api.Pod]) *Forecast {
	f := &Forecast{nodes: nodes, pods: pods, picture: newPicture(), byApp: map[string]map[string]*api.Pod{}}
	nodes.OnChange(func(was, is *api.Node) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if is == nil {
			f.picture.dropNode(was.Meta.Name)
		} else {
			f.picture.setNode(is)
		}
	})
	pods.OnChange(func(was, is *api.Pod) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if was != nil && (is == nil || is.Meta.UID != was.Meta.UID) {
			f.picture.unplace(was.Meta.UID)
			f.file(was, nil)
		}
		if is != nil {
			f.picture.setPod(is)
			f.file(is, is)
		}
	})
	return f
}

// synced waits until the picture is of the whole cluster.
func (f *Forecast) synced(ctx context.Context) error {
	return cmp.Or(f.nodes.Synced(ctx), f.pods.Synced(ctx))
}

// file keeps the pods of an app together.
func (f *Forecast) file(of, is *api.Pod) {
	app := groupOf(of.Meta.Namespace, ownerOf(of), "").app
	if is == nil || is.Status.Phase.Ended() {
		if delete(f.byApp[app], of.Meta.UID); len(f.byApp[app]) == 0 {
			delete(f.byApp, app)
		}
		return
	}
	if f.byApp[app] == nil {
		f.byApp[app] = map[string]*api.Pod{}
	}
	f.byApp[app][is.Meta.UID] = is
}

// workload is what a forecast asks about.
type workload struct {
	namespace, owner string
	template         api.PodTemplate
	pods             int
	perNode          bool
}

func workloadOf(o api.Any) (w workload, err error) {
	switch v := o.(type) {
	case *api.App:
		w = workload{v.Meta.Namespace, v.Meta.Name, v.Effective.Template(), api.Deref(v.Effective.Replicas), api.Deref(v.Effective.PerNode)}
		if v.Effective.Scale != nil {
			w.pods = api.Deref(v.Effective.Scale.Min)
		}
	case *api.Job:
		w = workload{v.Meta.Namespace, jobPrefix + v.Meta.Name, v.Effective.PodTemplate, v.Effective.Width(), false}
	default:
		err = fmt.Errorf("%s has no pods to place", o.Ref())
	}
	return w, err
}

// Place says how many of the pods that an app, or a run of a job, wants would
// have a node. Those that ask for the same as before stay where they are, if
// their node still takes new ones; the others are thought away, for they make
// room in the end. With nodes it also says of each node whether one more could
// run there as things are, or why not.
func (f *Forecast) Place(ctx context.Context, o api.Any, nodes bool) (*api.PlanPlacement, error) {
	w, err := workloadOf(o)
	if err != nil {
		return nil, err
	}
	if err := f.synced(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	r := requestOf(w.namespace, w.owner, "plan", &w.template)
	p := f.picture
	wanted := w.pods
	if w.perNode {
		wanted = len(p.newClass(r).candidates)
		r.onePer = api.DomainNode
	}
	out := &api.PlanPlacement{Wanted: wanted}
	if nodes {
		out.Nodes = p.each(r)
	}
	a := &ask{picture: p, request: r}
	for uid, pod := range f.byApp[r.group.app] {
		asked := requestOf(w.namespace, w.owner, "plan", &pod.Spec.PodTemplate)
		if pod.Spec.Node != "" && !pod.Meta.Deleting() && asked.key == r.key && static(a, p.at(pod.Spec.Node)) && out.Fits < wanted {
			out.Fits++
			continue
		}
		p.unplace(uid)
		defer p.setPod(pod)
	}
	c := p.newClass(r)
	for out.Fits < wanted {
		i := p.choose(c)
		if i < 0 {
			break
		}
		uid := fmt.Sprintf("plan %d", out.Fits)
		p.take(uid, r, i, nil)
		defer p.unplace(uid)
		out.Fits++
	}
	if out.Fits < wanted {
		out.Message = c.why
		for _, reason := range c.reasons {
			out.Reasons = append(out.Reasons, api.PlacementReason{Nodes: reason.Nodes, Reason: reason.Reason})
		}
	}
	return out, nil
}

// each says of every node why the request does not fit there now; nothing where
// it does.
func (p *picture) each(r *request) map[string]string {
	a := &ask{p, r, p.rulesOf(p.newClass(r))}
	out := map[string]string{}
	for i, shut := range p.shut {
		if shut == gone {
			continue
		}
		out[p.names[i]] = ""
		for _, f := range filters {
			if !f.fits(a, i) {
				out[p.names[i]] = strings.TrimPrefix(f.say(a, []int{i}), "1 ")
				break
			}
		}
	}
	return out
}
