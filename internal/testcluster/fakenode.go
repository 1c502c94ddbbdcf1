package testcluster

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/daemon"
	"github.com/clusterd/terraform-provider-clusterd/internal/gossip"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	"github.com/clusterd/terraform-provider-clusterd/internal/tunnel"
)

// fakeNode takes part in a cluster as a node does, over the same wire, but
// runs nothing: its pods are what their image's name says. An image called
// "missing" does not exist, one called "crash" exits with code 1 at once, one
// called "unhealthy" never becomes ready; all others serve.
type fakeNode struct {
	name   string
	server string // host:port
	id     *pki.Identity
	client *client.Client
	subnet netip.Prefix
	key    []byte
	log    hclog.Logger

	mu      sync.Mutex
	ips     map[string]netip.Addr // by pod UID
	sources map[string]bool       // addresses in use
}

// join makes name a node of the cluster at server.
func join(ctx context.Context, name, server, token string, log hclog.Logger) (*fakeNode, error) {
	parsed, err := pki.ParseJoinToken(token)
	if err != nil {
		return nil, err
	}
	res, err := pki.Join(ctx, server, parsed, name, "127.0.0.1")
	if err != nil {
		return nil, err
	}
	subnet, err := netip.ParsePrefix(res.Node.Subnet)
	if err != nil {
		return nil, fmt.Errorf("subnet of node %s: %w", name, err)
	}
	c, err := client.New(client.Config{Addresses: []string{"https://" + server}, TLS: res.Identity.ClientTLS(), UserAgent: "nodeagent"})
	if err != nil {
		return nil, err
	}
	return &fakeNode{
		name: name, server: server, id: res.Identity, client: c, subnet: subnet, key: res.GossipKey,
		log: log.Named(name), ips: map[string]netip.Addr{}, sources: map[string]bool{},
	}, nil
}

// run is the node's power: it ends with ctx, without a goodbye.
func (n *fakeNode) run(ctx context.Context) error {
	g, err := gossip.Open(gossip.Config{
		Name: pki.ID{Role: pki.Node, Name: n.name}.String(), Bind: "127.0.0.1:0", Key: n.key, Log: n.log,
		Seeds: func() []string { return n.seeds(ctx) },
	})
	if err != nil {
		return err
	}
	return daemon.Run(ctx,
		g,
		&tunnel.Dialer{Addr: n.server, TLS: n.id.ClientTLS(), Handler: http.HandlerFunc(n.answer), Log: n.log},
		daemon.Func(n.register),
		daemon.Func(n.pods),
	)
}

func (n *fakeNode) seeds(ctx context.Context) []string {
	servers, _, err := client.Of(n.client, api.Servers).List(ctx, "", nil)
	if err != nil {
		return nil
	}
	var out []string
	for _, s := range servers {
		if s.Spec.Gossip != "" {
			out = append(out, s.Spec.Gossip)
		}
	}
	return out
}

// answer serves what the server asks over the tunnel.
func (n *fakeNode) answer(w http.ResponseWriter, r *http.Request) {
	http.Error(w, `{"status":404,"detail":"a fake node has no `+r.URL.Path+`"}`, http.StatusNotFound)
}

// register tells the cluster what the node has, until the cluster knows.
func (n *fakeNode) register(ctx context.Context) error {
	has := api.Resources{CPU: "8", Memory: "16Gi", Pods: 250}
	node := &api.Node{Meta: api.Meta{Name: n.name}, Status: api.NodeStatus{
		Address: "127.0.0.1", Capacity: has, Allocatable: has, Version: daemon.Version(), OS: "linux", Arch: "amd64", BootID: "fake",
	}}
	return retry(ctx, n.log, func() error {
		_, err := client.Of(n.client, api.Nodes).PutStatus(ctx, node)
		return err
	})
}

// pods brings every pod of the node to where it belongs, whenever one changes.
func (n *fakeNode) pods(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := n.follow(ctx); ctx.Err() == nil {
			n.log.Debug("watch pods again", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return nil
}

func (n *fakeNode) follow(ctx context.Context) error {
	pods := client.Of(n.client, api.Pods)
	mine := client.By("node", n.name)
	items, rev, err := pods.List(ctx, "", mine)
	if err != nil {
		return err
	}
	for i := range items {
		n.sync(ctx, &items[i])
	}
	for ev, err := range pods.Watch(ctx, "", mine, rev) {
		if err != nil {
			return err
		}
		switch ev.Type {
		case api.EventPut:
			n.sync(ctx, ev.Object)
		case api.EventDelete:
			n.release(ev.Object)
		}
	}
	return nil
}

// sync writes the pod's next status, one step per call: the write comes back
// as the next event.
func (n *fakeNode) sync(ctx context.Context, p *api.Pod) {
	next, changed := n.next(p)
	if !changed {
		return
	}
	p.Status = next
	if _, err := client.Of(n.client, api.Pods).PutStatus(ctx, p); err != nil && ctx.Err() == nil {
		n.log.Warn("write pod status", "pod", p.Ref(), "error", err)
	}
}

func (n *fakeNode) next(p *api.Pod) (s api.PodStatus, changed bool) {
	s, now := p.Status, time.Now()
	switch {
	case s.Phase.Ended():
		return s, false
	case p.Meta.Deleting():
		s.Phase, s.Ready, s.EndedAt = api.PhaseSucceeded, false, now
		s.Containers = containers(p, api.ContainerExited, false, now)
		return s, true
	case s.Phase == api.PhaseRunning || s.Fatal != nil:
		return s, false
	}
	image, _, _ := strings.Cut(p.Spec.Image[strings.LastIndex(p.Spec.Image, "/")+1:], ":")
	s.StartedAt, s.IP = now, n.address(p).String()
	switch image {
	case "missing":
		s.Phase, s.Reason = api.PhaseStarting, "image_unavailable"
		s.Message = fmt.Sprintf("image %s is not on the node and cannot be pulled", p.Spec.Image)
		s.Fatal = &api.Cause{Reason: s.Reason, Message: s.Message, Pod: p.Meta.Name, Node: n.name, Container: api.MainContainer}
		s.Containers = containers(p, api.ContainerWaiting, false, now)
	case "crash":
		s.Phase, s.Reason = api.PhaseRunning, "crash_loop"
		s.Message = "main exited with code 1 three times"
		s.Fatal = &api.Cause{Reason: s.Reason, Message: s.Message, Pod: p.Meta.Name, Node: n.name, Container: api.MainContainer, ExitCode: new(1), Log: []string{"panic: as its name says"}}
		s.Containers = containers(p, api.ContainerWaiting, false, now)
	case "unhealthy":
		s.Phase, s.Message = api.PhaseRunning, "main: health check fails"
		s.Containers = containers(p, api.ContainerRunning, false, now)
	default:
		s.Phase, s.Ready, s.ReadyAt, s.Message, s.Reason = api.PhaseRunning, true, now, "", ""
		s.Containers = containers(p, api.ContainerRunning, true, now)
	}
	return s, true
}

func containers(p *api.Pod, state string, ready bool, now time.Time) map[string]api.ContainerStatus {
	out := map[string]api.ContainerStatus{}
	for name := range p.Spec.Containers() {
		c := api.ContainerStatus{State: state, Ready: ready}
		if state == api.ContainerRunning {
			c.StartedAt = now
		}
		out[name] = c
	}
	return out
}

// address gives the pod a free address of the node's subnet.
func (n *fakeNode) address(p *api.Pod) netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ip, ok := n.ips[p.Meta.UID]; ok {
		return ip
	}
	ip := n.subnet.Addr().Next().Next() // .0 is the network, .1 the gateway
	for n.sources[ip.String()] {
		ip = ip.Next()
	}
	n.ips[p.Meta.UID], n.sources[ip.String()] = ip, true
	return ip
}

func (n *fakeNode) release(p *api.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ip, ok := n.ips[p.Meta.UID]; ok {
		delete(n.ips, p.Meta.UID)
		delete(n.sources, ip.String())
	}
}

// retry calls f until it succeeds or ctx is done.
func retry(ctx context.Context, log hclog.Logger, f func() error) error {
	for {
		err := f()
		if err == nil || ctx.Err() != nil {
			return nil
		}
		log.Debug("trying again", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}
