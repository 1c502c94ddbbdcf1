package provider

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// appView is how an app is, at the moment of the plan.
type appView struct {
	Namespace string             `json:"namespace" doc:"Namespace of the app. Default: the provider's."`
	Image     string             `json:"image" doc:"Image that is declared."`
	Replicas  int                `json:"replicas" doc:"Pods that are wanted."`
	Ready     int                `json:"ready" doc:"Pods that serve, of any revision."`
	Updated   int                `json:"updated" doc:"Pods of the current revision."`
	Message   string             `json:"message" doc:"What the app is waiting for, in words."`
	Rollout   rolloutView        `json:"rollout" doc:"The current or last rollout."`
	Pods      map[string]podView `json:"pods" doc:"The app's pods by name."`
	Nodes     []string           `json:"nodes" doc:"Nodes its pods are on, sorted."`
}

type rolloutView struct {
	Phase      string     `json:"phase" doc:"One of in_progress, complete, rolled_back, paused, failed, superseded."`
	Revision   string     `json:"revision" doc:"Short hash of what the pods run."`
	Generation int        `json:"generation" doc:"Counts the changes of the app's declaration."`
	Image      string     `json:"image" doc:"Image it rolls out."`
	Reason     string     `json:"reason" doc:"Why it was started, when not by a user."`
	StartedAt  string     `json:"started_at" doc:"When it began, in RFC 3339."`
	EndedAt    string     `json:"ended_at" doc:"When it ended, in RFC 3339; empty while it goes on."`
	Cause      *causeView `json:"cause,omitempty" doc:"Why it failed; null when it did not."`
}

type causeView struct {
	Reason    string   `json:"reason" doc:"In one word: crash_loop, out_of_memory, exited, unseen, cannot_start, image_unavailable, pull_refused, missing_secret, missing_config, disk_full, unhealthy, isolated, unschedulable, deadline, aborted."`
	Message   string   `json:"message" doc:"In words, with the way out."`
	Pod       string   `json:"pod" doc:"The pod that shows it."`
	Node      string   `json:"node" doc:"The node it is on."`
	Container string   `json:"container" doc:"The container that failed."`
	ExitCode  *int     `json:"exit_code" doc:"How it ended; null when it did not."`
	OOM       bool     `json:"oom" doc:"It was killed for exceeding its memory."`
	Log       []string `json:"log" doc:"The last lines it wrote."`
}

type podView struct {
	Node     string `json:"node" doc:"Node it belongs to; empty while it waits for one."`
	IP       string `json:"ip" doc:"Its address in the cluster."`
	Phase    string `json:"phase" doc:"One of pending, starting, running, stopping, succeeded, failed, lost."`
	Ready    bool   `json:"ready" doc:"It serves."`
	Restarts int    `json:"restarts" doc:"Restarts of its containers."`
	Revision string `json:"revision" doc:"Revision of the app it runs."`
	Message  string `json:"message" doc:"What it waits for, in words."`
}

// newAppData returns the data source clusterd_app. What changes by itself is
// here and not in the resource, so that it is never a diff.
func newAppData() datasource.DataSource {
	return &dataSource[appView]{
		name: "app",
		doc:  "An app as it is: its pods, where they are, and how its last rollout went.",
		inputs: map[string]schema.Attribute{
			"name": inputName, "namespace": inputNamespace,
		},
		read: readApp,
	}
}

func readApp(ctx context.Context, c *cluster, in values, diags *diag.Diagnostics) *appView {
	name, _ := in.text("name")
	namespace := c.namespaceOf(in)
	a, err := client.Of(c.client, api.Apps).Get(ctx, namespace, name)
	if err != nil {
		at := "name"
		if in, e := c.space(ctx, namespace); e == nil && in == nil {
			at = "namespace"
		}
		diags.AddAttributeError(path.Root(at), "Cannot read app "+namespace+"/"+name, sentence(err.Error()))
		return nil
	}
	pods, _, err := client.Of(c.client, api.Pods).List(ctx, namespace, client.By("app", name))
	if err != nil {
		diags.AddError("Cannot list the pods of app "+namespace+"/"+name, sentence(err.Error()))
		return nil
	}
	return viewApp(a, pods)
}

func viewApp(a *api.App, pods []*api.Pod) *appView {
	v := &appView{
		Namespace: a.Meta.Namespace, Image: a.Spec.Image, Replicas: api.Desired(a),
		Ready: a.Status.Ready, Updated: a.Status.Updated, Message: a.Status.Message,
		Rollout: viewRollout(&a.Status.Rollout), Pods: map[string]podView{},
	}
	nodes := map[string]bool{}
	for _, p := range pods {
		if p.Status.Phase.Ended() {
			continue
		}
		if p.Spec.Node != "" {
			nodes[p.Spec.Node] = true
		}
		v.Pods[p.Meta.Name] = viewPod(p)
	}
	v.Nodes = slices.Sorted(maps.Keys(nodes))
	return v
}

func viewPod(p *api.Pod) podView {
	return podView{
		Node: p.Spec.Node, IP: p.Status.IP, Phase: string(cmp.Or(p.Status.Phase, api.PhasePending)), Ready: p.Status.Ready,
		Restarts: p.Status.Restarts(), Revision: p.Spec.Revision, Message: p.Status.Message,
	}
}

func viewRollout(r *api.Rollout) rolloutView {
	v := rolloutView{
		Phase: string(r.Phase), Revision: r.Revision, Generation: int(r.Generation), Image: r.Image, Reason: r.Reason,
		StartedAt: moment(r.StartedAt), EndedAt: moment(r.EndedAt),
	}
	if c := r.Cause; c != nil {
		v.Cause = &causeView{c.Reason, c.Message, c.Pod, c.Node, c.Container, c.ExitCode, c.OOM, c.Log}
	}
	return v
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
