package provider

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// Inputs that several data sources have.
var (
	inputName      = schema.StringAttribute{Required: true, MarkdownDescription: "Name of the object."}
	inputNamespace = schema.StringAttribute{Optional: true, Computed: true, MarkdownDescription: "Namespace. Default: the provider's."}
	inputLabels    = schema.MapAttribute{Optional: true, ElementType: types.StringType, MarkdownDescription: "Only objects that have all of these labels."}
)

// namespaceOf returns the namespace a data source asks about.
func (c *cluster) namespaceOf(in values) string {
	namespace, _ := in.text("namespace")
	return cmp.Or(namespace, c.namespace, api.DefaultNamespace)
}

// labelFilter selects by the input labels.
func labelFilter(in values) client.Filter {
	var labels map[string]string
	new(reader).expand(in["labels"], reflect.ValueOf(&labels).Elem(), path.Root("labels"))
	filter := client.Filter{}
	for k, v := range labels {
		filter.Add("label", k+"="+v)
	}
	return filter
}

// listAll lists a kind in a namespace, and says what went wrong.
func listAll[O api.Any](ctx context.Context, c *cluster, k *api.Kind[O], namespace string, filter client.Filter, diags *diag.Diagnostics) []O {
	all, _, err := client.Of(c.client, k).List(ctx, namespace, filter)
	if err != nil {
		diags.AddError("Cannot list the "+k.Plural, sentence(err.Error()))
	}
	return all
}

// appsView is the apps of a namespace.
type appsView struct {
	Namespace string                 `json:"namespace" doc:"Namespace of the apps. Default: the provider's."`
	Apps      map[string]appListView `json:"apps" doc:"The apps by name."`
}

type appListView struct {
	Image    string            `json:"image" doc:"Image that is declared."`
	Replicas int               `json:"replicas" doc:"Pods that are wanted."`
	Ready    int               `json:"ready" doc:"Pods that serve."`
	Phase    string            `json:"phase" doc:"Where the current or last rollout stands."`
	Revision string            `json:"revision" doc:"Revision of the current or last rollout."`
	Message  string            `json:"message" doc:"What the app is waiting for, in words."`
	Labels   map[string]string `json:"labels" doc:"Labels of the app."`
}

// newAppsData returns the data source clusterd_apps.
func newAppsData() datasource.DataSource {
	return &dataSource[appsView]{
		name: "apps", doc: "The apps of a namespace, as they are.",
		inputs: map[string]schema.Attribute{"namespace": inputNamespace, "labels": inputLabels},
		read: func(ctx context.Context, c *cluster, in values, diags *diag.Diagnostics) *appsView {
			v := &appsView{Namespace: c.namespaceOf(in), Apps: map[string]appListView{}}
			for _, a := range listAll(ctx, c, api.Apps, v.Namespace, labelFilter(in), diags) {
				v.Apps[a.Meta.Name] = appListView{
					Image: a.Spec.Image, Replicas: api.Deref(a.Effective.Replicas), Ready: a.Status.Ready,
					Phase: string(a.Status.Rollout.Phase), Revision: a.Status.Rollout.Revision, Message: a.Status.Message, Labels: a.Meta.Labels,
				}
			}
			return v
		},
	}
}

// podsView is the pods of a namespace.
type podsView struct {
	Namespace string             `json:"namespace" doc:"Namespace of the pods. Default: the provider's."`
	Pods      map[string]podView `json:"pods" doc:"The pods by name."`
}

// newPodsData returns the data source clusterd_pods.
func newPodsData() datasource.DataSource {
	return &dataSource[podsView]{
		name: "pods", doc: "The pods of a namespace, of an app or of a node, as they are.",
		inputs: map[string]schema.Attribute{
			"namespace": inputNamespace, "labels": inputLabels,
			"app":  schema.StringAttribute{Optional: true, MarkdownDescription: "Only pods of this app."},
			"node": schema.StringAttribute{Optional: true, MarkdownDescription: "Only pods on this node."},
		},
		read: func(ctx context.Context, c *cluster, in values, diags *diag.Diagnostics) *podsView {
			v, filter := &podsView{Namespace: c.namespaceOf(in), Pods: map[string]podView{}}, labelFilter(in)
			for _, by := range []string{"app", "node"} {
				if s, ok := in.text(by); ok {
					filter.Add(by, s)
				}
			}
			for _, p := range listAll(ctx, c, api.Pods, v.Namespace, filter, diags) {
				v.Pods[p.Meta.Name] = viewPod(p)
			}
			return v
		},
	}
}

// serviceView is how a service is, at the moment of the plan.
type serviceView struct {
	Namespace string                  `json:"namespace" doc:"Namespace of the service. Default: the provider's."`
	App       string                  `json:"app" doc:"The app whose ready pods answer."`
	VirtualIP string                  `json:"virtual_ip" doc:"Its virtual IP."`
	DNSName   string                  `json:"dns_name" doc:"The name pods of the cluster reach it by."`
	Ports     map[string]portView     `json:"ports" doc:"Its ports by name."`
	Endpoints map[string]endpointView `json:"endpoints" doc:"Pods that answer, by name."`
	Message   string                  `json:"message" doc:"Why there are none, in words."`
}

type portView struct {
	Port     int    `json:"port" doc:"Port of the virtual IP."`
	NodePort *int   `json:"node_port" doc:"Port of every node; null when there is none."`
	Protocol string `json:"protocol" doc:"tcp or udp."`
}

type endpointView struct {
	IP       string `json:"ip" doc:"Address of the pod."`
	Node     string `json:"node" doc:"Node of the pod."`
	Draining bool   `json:"draining" doc:"It gets no new connections."`
}

// newServiceData returns the data source clusterd_service.
func newServiceData() datasource.DataSource {
	return &dataSource[serviceView]{
		name: "service", doc: "A service as it is: its address, and who answers.",
		inputs: map[string]schema.Attribute{"name": inputName, "namespace": inputNamespace},
		read:   readService,
	}
}

func readService(ctx context.Context, c *cluster, in values, diags *diag.Diagnostics) *serviceView {
	name, _ := in.text("name")
	namespace := c.namespaceOf(in)
	s, err := client.Of(c.client, api.Services).Get(ctx, namespace, name)
	if err != nil {
		diags.AddAttributeError(path.Root("name"), "Cannot read service "+namespace+"/"+name, sentence(err.Error()))
		return nil
	}
	v := &serviceView{
		Namespace: namespace, App: s.Spec.App, VirtualIP: s.Effective.IP, DNSName: api.ServiceDNSName(namespace, name),
		Ports: map[string]portView{}, Endpoints: map[string]endpointView{}, Message: s.Status.Message,
	}
	for port, p := range s.Effective.Ports {
		v.Ports[port] = portView{p.Port, p.NodePort, p.Protocol}
	}
	for _, slice := range listAll(ctx, c, api.EndpointSlices, namespace, client.By("service", name), diags) {
		for _, e := range slice.Spec.Addresses {
			v.Endpoints[e.Pod] = endpointView{e.IP, e.Node, e.Draining}
		}
	}
	return v
}

// eventsView is what happened to one object.
type eventsView struct {
	Namespace string               `json:"namespace" doc:"Namespace of the object. Default: the provider's."`
	Events    map[string]eventView `json:"events" doc:"The events, by their number from the oldest, as two digits: 01, 02, …"`
}

type eventView struct {
	Warning bool   `json:"warning" doc:"Something went wrong."`
	Reason  string `json:"reason" doc:"In one word."`
	Message string `json:"message" doc:"In words."`
	By      string `json:"by" doc:"The part that saw it."`
	Count   int    `json:"count" doc:"How often it happened."`
	Last    string `json:"last" doc:"When it last did, in RFC 3339."`
}

// newEventsData returns the data source clusterd_events.
func newEventsData() datasource.DataSource {
	return &dataSource[eventsView]{
		name: "events", doc: "What happened to an object lately.",
		inputs: map[string]schema.Attribute{
			"kind":      schema.StringAttribute{Required: true, MarkdownDescription: "Kind of the object, such as `app`, `pod` or `node`."},
			"name":      inputName,
			"namespace": inputNamespace,
		},
		read: readEvents,
	}
}

func readEvents(ctx context.Context, c *cluster, in values, diags *diag.Diagnostics) *eventsView {
	word, _ := in.text("kind")
	name, _ := in.text("name")
	k, err := api.Lookup(word)
	if err != nil {
		diags.AddAttributeError(path.Root("kind"), "Bad kind", sentence(err.Error()))
		return nil
	}
	v := &eventsView{Namespace: c.namespaceOf(in), Events: map[string]eventView{}}
	subject := api.Ref{Kind: k.Info().Name, Name: name}
	if k.Info().Scope == api.Namespaced {
		subject.Namespace = v.Namespace
	}
	at := api.EventsOf(subject)
	ring, err := client.Of(c.client, api.EventRings).Get(ctx, at.Namespace, at.Name)
	switch {
	case api.Is(err, api.NotFound):
		return v // nothing has happened to it
	case err != nil:
		diags.AddError("Cannot read the events of "+strings.ToLower(k.Info().Name)+" "+name, sentence(err.Error()))
		return nil
	}
	for i, e := range ring.Spec.Entries {
		v.Events[fmt.Sprintf("%02d", i+1)] = eventView{e.Warning, e.Reason, e.Message, e.By, max(e.Count, 1), moment(e.Last)}
	}
	return v
}
