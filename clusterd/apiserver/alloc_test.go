package apiserver

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func newService(name string, nodePort int) *api.Service {
	p := api.ServicePort{Port: 80}
	if nodePort != 0 {
		p.NodePort = &nodePort
	}
	return &api.Service{Meta: api.Meta{Namespace: "default", Name: name}, Spec: api.ServiceSpec{App: "web", Ports: map[string]api.ServicePort{"http": p}}}
}

// allocated lists the allocation keys that are held.
func allocated(s *Server) (keys []string) {
	s.cache.now.Load().each(allocPrefix, "", func(o *object) bool {
		keys = append(keys, strings.TrimPrefix(o.key, allocPrefix))
		return true
	})
	return keys
}

func TestServiceAddresses(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, services := t.Context(), client.Of(c, api.Services)
		web := must(services.Create(ctx, newService("web", 30080)))(t)
		ip, err := netip.ParseAddr(web.Effective.IP)
		if err != nil || !s.services.Contains(ip) || web.Spec.IP != "" {
			t.Fatalf("address is %q, spec says %q", web.Effective.IP, web.Spec.IP)
		}
		// A clash names the holder, and the field.
		_, err = services.Create(ctx, newService("other", 30080))
		e, ok := errors.AsType[*api.Error](err)
		if !ok || e.Code != api.Conflict || e.Fields[0].Path != "spec.ports.http.node_port" || !strings.Contains(e.Message, "node port 30080/tcp is taken by service/default/web") {
			t.Errorf("got %v", err)
		}
		// Another protocol is another port.
		udp := newService("dns", 30080)
		udp.Spec.Ports = map[string]api.ServicePort{"http": {Port: 53, Protocol: "udp", NodePort: udp.Spec.Ports["http"].NodePort}}
		must(services.Create(ctx, udp))(t)
		// Changing it moves the port and keeps the address.
		moved := must(services.Put(ctx, newService("web", 30081)))(t)
		if moved.Effective.IP != web.Effective.IP {
			t.Errorf("the address changed from %s to %s", web.Effective.IP, moved.Effective.IP)
		}
		must(services.Create(ctx, newService("other", 30080)))(t)
		fixed := newService("fixed", 0)
		fixed.Spec.IP = "10.96.0.5"
		must(services.Create(ctx, fixed))(t)
		fixed.Meta.Name = "fixed2"
		_, err = services.Create(ctx, fixed)
		if wantCode(t, err, api.Conflict); !strings.Contains(err.Error(), "service/default/fixed") {
			t.Error(err)
		}
		fixed.Spec.IP = "10.97.0.5"
		_, err = services.Create(ctx, fixed)
		wantCode(t, err, api.Invalid)
		for _, name := range []string{"web", "dns", "other", "fixed"} {
			if err := services.Delete(ctx, "default", name, ""); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := services.Get(ctx, "default", "web"); !api.Is(err, api.NotFound) || len(allocated(s)) != 0 {
			t.Errorf("still held: %v", allocated(s))
		}
	})
}

// TestRacingAllocations: no two services get one address, no two nodes one
// subnet, and exactly one of many gets a node port.
func TestRacingAllocations(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx := t.Context()
		const n = 40
		var mu sync.Mutex
		ips, subnets, port := map[string]string{}, map[string]string{}, 0
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				svc, err := client.Of(c, api.Services).Create(ctx, newService(fmt.Sprint("s", i), 0))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if other := ips[svc.Effective.IP]; other != "" {
					t.Errorf("%s and %s both have %s", other, svc.Meta.Name, svc.Effective.IP)
				}
				ips[svc.Effective.IP] = svc.Meta.Name
			})
			wg.Go(func() {
				node, err := client.Of(c, api.Nodes).Create(ctx, &api.Node{Meta: api.Meta{Name: fmt.Sprint("w", i)}})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if other := subnets[node.Effective.Subnet]; other != "" {
					t.Errorf("%s and %s both have %s", other, node.Meta.Name, node.Effective.Subnet)
				}
				subnets[node.Effective.Subnet] = node.Meta.Name
			})
			wg.Go(func() {
				_, err := client.Of(c, api.Services).Create(ctx, newService(fmt.Sprint("p", i), 31000))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					port++
				} else if !api.Is(err, api.Conflict) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(ips) != n || len(subnets) != n || port != 1 {
			t.Errorf("%d addresses, %d subnets, %d holders of the port", len(ips), len(subnets), port)
		}
	})
}

func TestNodeSubnet(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, nodes := t.Context(), client.Of(c, api.Nodes)
		a := must(nodes.Create(ctx, &api.Node{Meta: api.Meta{Name: "a"}}))(t)
		b := must(nodes.Create(ctx, &api.Node{Meta: api.Meta{Name: "b"}}))(t)
		if a.Effective.Subnet != "10.244.0.0/24" || b.Effective.Subnet != "10.244.1.0/24" {
			t.Errorf("subnets %s and %s", a.Effective.Subnet, b.Effective.Subnet)
		}
		a.Spec.Cordoned = true
		if a = must(nodes.Put(ctx, a))(t); a.Effective.Subnet != "10.244.0.0/24" || !a.Effective.Cordoned {
			t.Errorf("after a change: %+v", a.Effective)
		}
		for _, bad := range []string{"10.244.7.0/25", "10.245.0.0/24", "10.244.7.1/24", "10.244.1.0/24"} {
			if _, err := nodes.Create(ctx, &api.Node{Meta: api.Meta{Name: "c"}, Spec: api.NodeSpec{Subnet: bad}}); err == nil {
				t.Errorf("%s was given", bad)
			}
		}
		a.Spec.Subnet = "10.244.9.0/24"
		_, err := nodes.Put(ctx, a)
		wantCode(t, err, api.Invalid)
		if err := nodes.Delete(ctx, "", "a", ""); err != nil {
			t.Fatal(err)
		}
		_, err = nodes.Get(ctx, "", "a") // what is free is looked up in the cache, which may lag behind
		wantCode(t, err, api.NotFound)
		if again := must(nodes.Create(ctx, &api.Node{Meta: api.Meta{Name: "d"}}))(t); again.Effective.Subnet != "10.244.0.0/24" {
			t.Errorf("a subnet that was given back is not used: %s", again.Effective.Subnet)
		}
	})
}

// TestSubnetsInOrder: the next free subnet is given, also one between others.
func TestSubnetsInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		s.pods = netip.MustParsePrefix("10.244.0.0/20")
		ctx, nodes := t.Context(), client.Of(c, api.Nodes)
		create := func(name string, i int) {
			t.Helper()
			n := must(nodes.Create(ctx, &api.Node{Meta: api.Meta{Name: name}}))(t)
			if want := fmt.Sprintf("10.244.%d.0/24", i); n.Effective.Subnet != want {
				t.Errorf("%s has %s, want %s", name, n.Effective.Subnet, want)
			}
		}
		for i := range 16 {
			create(fmt.Sprint("w", i), i)
		}
		for _, i := range []int{12, 0, 5} {
			name := fmt.Sprint("w", i)
			if err := nodes.Delete(ctx, "", name, ""); err != nil {
				t.Fatal(err)
			}
			_, err := nodes.Get(ctx, "", name) // see TestNodeSubnet
			wantCode(t, err, api.NotFound)
			create(fmt.Sprint("again", i), i)
		}
	})
}

func TestRangeRunsOut(t *testing.T) {
	s, err := Open(t.Context(), Config{PodsCIDR: "10.0.0.0/23"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	go s.Run(t.Context())
	c := client.InProcess(s.InProcess(system))
	for i, want := range []bool{true, true, false} {
		_, err := client.Of(c, api.Nodes).Create(t.Context(), &api.Node{Meta: api.Meta{Name: fmt.Sprint("w", i)}})
		if (err == nil) != want {
			t.Errorf("node %d: %v", i, err)
		}
		if err != nil && !strings.Contains(err.Error(), "no /24 is free in the pod range 10.0.0.0/23") {
			t.Error(err)
		}
	}
	for _, bad := range []Config{{PodsCIDR: "10.0.0.0/25"}, {PodsCIDR: "x"}, {PodsCIDR: "10.96.0.0/12"}, {ServicesCIDR: "10.96.0.1/16"}, {ServicesCIDR: "fd00::/64"}} {
		if _, err := Open(t.Context(), bad); err == nil {
			t.Errorf("%+v opened", bad)
		}
	}
}
