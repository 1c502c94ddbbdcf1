package controller

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/golden"
)

// noon is when the golden tests happen.
var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func ago(seconds float64) time.Time { return noon.Add(-time.Duration(seconds * float64(time.Second))) }

// plans runs plan on what each archive of a directory gives.
func plans[G any](t *testing.T, dir string, plan func(*testing.T, G) fmt.Stringer) {
	golden.Plans(t, filepath.Join("testdata", dir), func(t *testing.T, given map[string][]byte) string {
		var g G
		if err := json.Unmarshal(given["given"], &g); err != nil {
			t.Fatal(err)
		}
		return plan(t, g).String()
	})
}

// givenPod describes a pod: ages in seconds, its revision by the name of the
// spec it comes from.
type givenPod struct {
	Name, Node     string
	Of             string // "" the declared spec, before: the one before it
	Age            float64
	Phase          api.Phase
	Ready          *float64           // seconds since
	Exited         map[string]float64 // by container: seconds since its last run ended
	Deleting       *float64
	Ended          float64
	Reason         string
	Message        string
	Crowded        bool
	Fatal          *api.Cause
	IP             string
	Ports, Sidecar map[string]api.Port
	Target         string
	Ordinal        *int
	Epoch          int64
}

func (g givenPod) build(app, revision string) *api.Pod {
	pod := &api.Pod{Kind: "Pod", Meta: api.Meta{Name: g.Name, Namespace: "default", UID: "uid-" + g.Name, CreatedAt: ago(g.Age)}}
	pod.Spec.App, pod.Spec.Revision, pod.Spec.Node, pod.Spec.Ports = app, revision, g.Node, g.Ports
	pod.Spec.Target = g.Target
	if pod.Spec.Ordinal, pod.Spec.Epoch = g.Ordinal, g.Epoch; g.Ordinal != nil {
		pod.Spec.Isolation = api.StopIsolated
	}
	if g.Sidecar != nil {
		pod.Spec.Sidecars = map[string]api.Container{"sidecar": {Ports: g.Sidecar}}
	}
	pod.Status = api.PodStatus{Phase: g.Phase, Reason: g.Reason, Message: g.Message, Crowded: g.Crowded, Fatal: g.Fatal, IP: g.IP}
	if g.Ready != nil {
		pod.Status.Ready, pod.Status.ReadyAt = true, ago(*g.Ready)
		pod.Status.Phase = api.PhaseRunning
	}
	for name, since := range g.Exited {
		if pod.Status.Containers == nil {
			pod.Status.Containers = map[string]api.ContainerStatus{}
		}
		pod.Status.Containers[name] = api.ContainerStatus{State: api.ContainerRunning, Ready: true, Restarts: 1, Last: &api.Exit{Code: 1, At: ago(since)}}
	}
	if g.Phase.Ended() {
		pod.Status.EndedAt = ago(g.Ended)
	}
	if g.Deleting != nil {
		at := ago(*g.Deleting)
		pod.Meta.DeletedAt = &at
	}
	return pod
}

type givenApp struct {
	Spec   json.RawMessage // declared now
	Before json.RawMessage // declared before, and healthy
	// Since is how long ago the rollout of spec began, if it did; progress how
	// long ago it got on.
	Since, Progress *float64
	Phase           api.RolloutPhase // of that rollout
	Reason          string
	Healthy         int
	Failures        int
	FailedAgo       float64
	Deleting        bool
	Epoch           int64
	Pods            []givenPod
	Volumes         map[string]api.Memory // that exist, and their sizes

	Held     *float64 // seconds since its canary holds
	Promoted bool
	Failed   int
	Intent   api.Intent
	Desired  int
	Nodes    []givenHost
	Refused  map[string]string // by the quota: "Pod web-a-0"
	Message  string            // of the app
}

// givenHost is a node as the app loop sees it.
type givenHost struct {
	Name    string
	Verdict api.Verdict // ready unless said
	Drained *float64    // seconds since
	Spec    api.NodeSpec
	Labels  map[string]string
}

func (g givenApp) nodes() map[string]*api.Node {
	nodes := map[string]*api.Node{}
	for _, h := range g.Nodes {
		n := &api.Node{Meta: api.Meta{Name: h.Name, Labels: h.Labels, WrittenAt: ago(1)}, Spec: h.Spec}
		if h.Drained != nil {
			n.Spec.Drain, n.Meta.WrittenAt = &api.Drain{}, ago(*h.Drained)
		}
		n.Effective = n.Spec.WithDefaults()
		n.Status.Health.Verdict = cmp.Or(h.Verdict, api.VerdictReady)
		nodes[h.Name] = n
	}
	return nodes
}

func effective(raw json.RawMessage) api.AppSpec {
	var s api.AppSpec
	if err := json.Unmarshal(raw, &s); err != nil {
		panic(err)
	}
	return s.WithDefaults()
}

func (g givenApp) build() (*api.App, []*api.Pod) {
	app := &api.App{Kind: "App", Meta: api.Meta{Name: "web", Namespace: "default", UID: "uid-web", Generation: 1, CreatedAt: ago(3600)}}
	if err := json.Unmarshal(g.Spec, &app.Spec); err != nil {
		panic(err)
	}
	app.Effective = effective(g.Spec)
	st := &app.Status
	st.Epoch, st.Message = g.Epoch, g.Message
	before := ""
	if g.Before != nil {
		app.Meta.Generation = 2
		before = effective(g.Before).Revision(nil, time.Time{})
		st.Rollout = api.Rollout{Generation: 1, Revision: before, Phase: api.RolloutComplete, Spec: g.Before, StartedAt: ago(3000), ProgressAt: ago(2990), EndedAt: ago(2990)}
	}
	if g.Since != nil {
		if st.Rollout.Generation > 0 {
			st.History = []api.Rollout{st.Rollout}
		}
		phase := g.Phase
		if phase == "" {
			phase = api.RolloutInProgress
		}
		progress := *g.Since
		if g.Progress != nil {
			progress = *g.Progress
		}
		st.Rollout = api.Rollout{Number: 2, Promoted: g.Promoted, Failed: g.Failed, Generation: app.Meta.Generation, Revision: app.Effective.Revision(nil, time.Time{}), Phase: phase, Reason: g.Reason,
			Healthy: g.Healthy, Spec: g.Spec, StartedAt: ago(*g.Since), ProgressAt: ago(progress)}
	}
	st.Intent, st.Desired = g.Intent, g.Desired
	if g.Held != nil {
		st.Rollout.HeldSince = ago(*g.Held)
	}
	if g.Failures > 0 {
		st.Failures, st.FailedAt = g.Failures, ago(g.FailedAgo)
	}
	if g.Deleting {
		at := ago(5)
		app.Meta.DeletedAt = &at
	}
	var pods []*api.Pod
	for _, p := range g.Pods {
		revision := app.Effective.Revision(nil, time.Time{})
		switch p.Of {
		case "before":
			revision = before
		case "other":
			revision = "other1"
		}
		pods = append(pods, p.build("web", revision))
	}
	return app, pods
}

func TestPlanAppGolden(t *testing.T) {
	plans(t, "app", func(t *testing.T, g givenApp) fmt.Stringer {
		app, pods := g.build()
		volumes := map[string]*api.Volume{}
		for name, size := range g.Volumes {
			volumes[name] = &api.Volume{Meta: api.Meta{Name: name, Namespace: "default", UID: "uid-" + name}, Spec: api.VolumeSpec{Size: size}}
		}
		refused := map[api.Ref]string{}
		for what, why := range g.Refused {
			kind, name, _ := strings.Cut(what, " ")
			refused[api.Ref{Kind: kind, Namespace: "default", Name: name}] = why
		}
		return planApp(app, facts{pods: pods, nodes: g.nodes(), volumes: volumes, refused: refused, now: noon})
	})
}

type givenNode struct {
	Name      string
	Verdict   api.Verdict
	For       float64 // seconds
	Message   string
	Gossip    Hearsay
	Heard     float64  // seconds since it says so
	Connected *float64 // seconds since
	Silent    *float64 // seconds since its stream ended; neither: never connected
	Pods      []string
	Stop      []string // of on_isolation = stop
	Keep      []string // … keep
	Lease     *float64 // seconds that are left of it; unknown
	Off       float64  // seconds since the outage that an operator confirmed
}

type givenNodes struct {
	Listening float64 // seconds
	Nodes     []givenNode
}

func TestPlanNodesGolden(t *testing.T) {
	plans(t, "nodes", func(t *testing.T, g givenNodes) fmt.Stringer {
		started := ago(g.Listening)
		said, pods, left := map[string]testimony{}, map[string][]*api.Pod{}, map[string]time.Duration{}
		var nodes []*api.Node
		for _, n := range g.Nodes {
			node := &api.Node{Meta: api.Meta{Name: n.Name}}
			node.Status.Health = api.NodeHealth{Verdict: n.Verdict, Since: ago(n.For), Message: n.Message}
			nodes = append(nodes, node)
			s := testimony{heard: Heard{State: n.Gossip, Since: ago(n.Heard)}, since: started}
			if n.Connected != nil {
				s.connected, s.since = true, ago(*n.Connected)
			} else if n.Silent != nil {
				s.since = ago(*n.Silent)
			}
			said[n.Name] = s
			for isolation, names := range map[string][]string{"": n.Pods, "stop": n.Stop, "keep": n.Keep} {
				for _, name := range names {
					pod := givenPod{Name: name, Node: n.Name, Phase: api.PhaseRunning}.build("web", "r")
					pod.Spec.Isolation = isolation
					pods[n.Name] = append(pods[n.Name], pod)
				}
			}
			slices.SortFunc(pods[n.Name], func(a, b *api.Pod) int { return strings.Compare(a.Meta.Name, b.Meta.Name) })
			if n.Lease != nil {
				left[n.Name] = time.Duration(*n.Lease * float64(time.Second))
			}
			if n.Off > 0 {
				node.Status.Off = api.NodeOff{Since: ago(n.Off)}
			}
		}
		return planNodes(nodes, func(n string) []*api.Pod { return pods[n] }, nil, said, left, started, noon)
	})
}

type givenService struct {
	Service *api.ServiceSpec // nil: it is gone
	App     *givenApp
	Pods    []givenPod
	Slices  map[string][]api.Endpoint
}

func TestPlanServiceGolden(t *testing.T) {
	plans(t, "service", func(t *testing.T, g givenService) fmt.Stringer {
		var svc *api.Service
		if g.Service != nil {
			svc = &api.Service{Meta: api.Meta{Name: "web", Namespace: "default"}, Spec: *g.Service, Effective: g.Service.WithDefaults()}
		}
		var app *api.App
		if g.App != nil {
			app, _ = g.App.build()
		}
		var pods []*api.Pod
		for _, p := range g.Pods {
			pods = append(pods, p.build("web", "r"))
		}
		var have []*api.Endpoints
		for _, name := range []string{"web-0", "web-1", "web-2"} {
			if a, ok := g.Slices[name]; ok {
				have = append(have, &api.Endpoints{Meta: api.Meta{Name: name, Namespace: "default"}, Spec: api.EndpointsSpec{Service: "web", Addresses: a}})
			}
		}
		return planService(svc, app, pods, have)
	})
}
