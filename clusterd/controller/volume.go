package controller

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// volumePlan is what is so of a volume, and whether a deleted one may go.
type volumePlan struct {
	status api.VolumeStatus
	finish bool
}

func (p volumePlan) String() string {
	var b strings.Builder
	if p.finish {
		b.WriteString("x the volume\n")
	}
	fmt.Fprintf(&b, "= %s", p.status.Phase)
	if p.status.Node != "" {
		fmt.Fprintf(&b, " on %s", p.status.Node)
	}
	if len(p.status.UsedBy) > 0 {
		fmt.Fprintf(&b, ", used by %s", strings.Join(p.status.UsedBy, ", "))
	}
	b.WriteByte('\n')
	if p.status.Message != "" {
		fmt.Fprintf(&b, "  %s\n", p.status.Message)
	}
	return b.String()
}

// planVolume says what is so of a volume. Who uses it is read off the pods that
// live, and never counted. node is where its data is; nil: there is none of
// that name.
//
//	pending → bound ⇄ lost
func planVolume(v *api.Volume, pods []*api.Pod, node *api.Node) (p volumePlan) {
	p.status = v.Status
	st := &p.status
	st.Phase, st.UsedBy, st.Message = api.VolumePending, nil, ""
	for _, pod := range pods {
		uses := slices.ContainsFunc(pod.Spec.Uses(), func(u api.VolumeUse) bool { return u.Name == v.Meta.Name })
		if uses && pod.Spec.Node != "" && !pod.Status.Phase.Ended() {
			st.UsedBy = append(st.UsedBy, pod.Meta.Name)
		}
	}
	slices.Sort(st.UsedBy)
	switch {
	case st.Node == "":
		st.Message = "comes to be on the node of the first pod that mounts it"
		if v.Effective.Node != "" {
			st.Message = fmt.Sprintf("comes to be on node %s with the first pod that mounts it", v.Effective.Node)
		}
		p.finish = v.Meta.Deleting()
	case node == nil:
		st.Phase, st.Message = api.VolumeLost, fmt.Sprintf("node %s, which had the data, was deleted", st.Node)
		p.finish = v.Meta.Deleting()
	case node.Status.Health.Verdict == api.VerdictDead || node.Status.Health.Verdict == api.VerdictLeft:
		st.Phase = api.VolumeLost
		st.Message = fmt.Sprintf("node %s, which has the data, is %s: the volume is back when the node is; if that is never, clusterd delete volume %s --force", st.Node, node.Status.Health.Verdict, v.Meta.Name)
		p.finish = v.Meta.Deleting() && st.Data.Removed
	default:
		st.Phase = api.VolumeBound
		p.finish = v.Meta.Deleting() && st.Data.Removed
		if v.Meta.Deleting() && !p.finish {
			st.Message = fmt.Sprintf("waits until node %s has removed the data", st.Node)
		}
	}
	return p
}

// volumes is the loop that says how volumes are, and ends deleted ones.
type volumes struct {
	client  *client.Client
	volumes *client.Kind[*api.Volume]
	caches  *reconcile.Caches
	log     hclog.Logger
}

func newVolumes(cfg Config) *volumes {
	return &volumes{client: cfg.Client, volumes: client.Of(cfg.Client, api.Volumes), caches: cfg.Caches, log: cfg.Log.Named("volume")}
}

func (l *volumes) loop() reconcile.Loop {
	return reconcile.Loop{
		Name: "volume",
		Watch: []reconcile.Source{
			l.caches.Volumes.Each(),
			l.caches.Pods.Refs(func(p *api.Pod) (refs []api.Ref) {
				for _, u := range p.Spec.Uses() {
					refs = append(refs, api.Volumes.Ref(p.Meta.Namespace, u.Name))
				}
				return refs
			}),
			l.caches.Nodes.Refs(func(n *api.Node) (refs []api.Ref) {
				for _, v := range l.caches.Volumes.By("node", "", n.Meta.Name) {
					refs = append(refs, api.Volumes.Ref(v.Meta.Namespace, v.Meta.Name))
				}
				return refs
			}),
		},
		Reconcile: l.reconcile,
	}
}

func (l *volumes) reconcile(ctx context.Context, ref api.Ref) (time.Duration, error) {
	v := l.caches.Volumes.Get(ref.Namespace, ref.Name)
	if v == nil {
		return 0, nil
	}
	var pods []*api.Pod
	var node *api.Node
	if on := v.Status.Node; on != "" {
		pods = l.caches.Pods.By("node", ref.Namespace, on)
		if node = l.caches.Nodes.Get("", on); node == nil {
			if err := absent(ctx, client.Of(l.client, api.Nodes), "", on); err != nil {
				return 0, err
			}
		}
	}
	p := planVolume(v, pods, node)
	if l.log.IsDebug() {
		l.log.Debug("plan", "ref", ref, "plan", p.String())
	}
	if p.finish {
		err := l.volumes.Finalize(ctx, ref.Namespace, ref.Name, v.Meta.UID)
		if err == nil {
			l.log.Info("volume is gone", "ref", ref)
		}
		if gone(err) {
			err = nil
		}
		return 0, err
	}
	if reflect.DeepEqual(p.status, v.Status) {
		return 0, nil
	}
	// Only if nothing has changed: a bind writes the node into the same status.
	o := *v
	o.Status = p.status
	_, err := l.client.BatchIf(ctx, []api.BatchPrecondition{{Ref: ref, Revision: v.Meta.Revision}}, []api.BatchWrite{status(api.Volumes, &o).op})
	if gone(err) {
		err = nil // the change that was missed comes by itself
	}
	return 0, err
}
