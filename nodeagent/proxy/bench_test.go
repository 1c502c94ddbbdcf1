package proxy

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/network/networktest"
)

// many returns n services of three pods each.
func many(n int) (services []*api.Service, endpoints []*api.Endpoints) {
	for i := range n {
		s := &api.Service{}
		s.Meta.Namespace, s.Meta.Name = "bench", fmt.Sprintf("svc-%d", i)
		s.Effective = api.ServiceSpec{App: s.Meta.Name, IP: fmt.Sprintf("10.96.%d.%d", i/250, i%250+1), Ports: map[string]api.ServicePort{"http": {Port: 80, Protocol: "tcp"}}}
		services, endpoints = append(services, s), append(endpoints, manySlice(i, 0))
	}
	return services, endpoints
}

func manySlice(i, round int) *api.Endpoints {
	e := &api.Endpoints{}
	e.Meta.Namespace, e.Meta.Name, e.Spec.Service = "bench", fmt.Sprintf("svc-%d-0", i), fmt.Sprintf("svc-%d", i)
	for node := range 3 {
		ip := netip.AddrFrom4([4]byte{10, 244, byte(node + 1), byte((i+round)%250 + 1)})
		e.Spec.Addresses = append(e.Spec.Addresses, api.Endpoint{IP: ip.String(), Ports: map[string]int{"http": 8080}})
	}
	return e
}

func benchProxy(b *testing.B, services int) (*Proxy, func()) {
	m := networktest.New(b, 1)[0]
	var k *nft
	var err error
	m.Do(func() { k, err = openNFT(testNode.ranges) })
	if err != nil {
		b.Fatal(err)
	}
	p := newProxy(Config{}, k)
	s, e := many(services)
	return p, func() {
		p.Reset(s, e, 1)
		p.ready = false
		if err := p.step(false); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkProgram programs all services from nothing, in one transaction.
func BenchmarkProgram(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			p, program := benchProxy(b, n)
			defer p.kernel.(*nft).close()
			for b.Loop() {
				program()
			}
		})
	}
}

// BenchmarkChange replaces all pods of one service, from the event to the
// kernel's acknowledgement.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			p, program := benchProxy(b, n)
			defer p.kernel.(*nft).close()
			program()
			i := 0
			for b.Loop() {
				i++
				e := manySlice(i%n, i/n+1)
				p.Endpoints(EndpointsEvent{Type: api.EventPut, Revision: int64(i), Object: e})
				if err := p.step(false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkIntact reads back and compares the whole table, as after every
// transaction of others.
func BenchmarkIntact(b *testing.B) {
	p, program := benchProxy(b, 1000)
	defer p.kernel.(*nft).close()
	program()
	for b.Loop() {
		if ok, err := p.kernel.intact(p.rules); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
