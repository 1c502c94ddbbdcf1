package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func (w *world) verdict(name string) api.Verdict {
	n, err := client.Of(w.client, api.Nodes).Get(w.ctx, "", name)
	if err != nil {
		w.t.Fatal(err)
	}
	return n.Status.Health.Verdict
}

func (w *world) allReady() {
	w.t.Helper()
	w.eventually("all nodes ready", 20*time.Second, func() bool {
		for name := range w.machine {
			if w.verdict(name) != api.VerdictReady {
				return false
			}
		}
		return true
	})
}

// cut is what a power cut looks like from the server: gossip takes about four
// seconds to say so, the stream about three.
func (w *world) cut(name string) {
	w.machine[name].power(false)
	go func() {
		sleep(w.ctx, 3*time.Second)
		w.hearsay.set(name, Alive, false)
		sleep(w.ctx, time.Second)
		w.hearsay.set(name, Dead, false)
	}()
}

func TestPowerCut(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":3}`), 20*time.Second)
		w.allReady()
		time.Sleep(settle)
		w.cut("w2")
		took := w.eventually("dead", 10*time.Second, func() bool { return w.verdict("w2") == api.VerdictDead })
		if took > 5*time.Second {
			t.Errorf("dead after %s", took)
		}
		took += w.eventually("replaced", 10*time.Second, func() bool {
			for _, p := range w.pods() {
				if p.Spec.Node == "w2" {
					return false
				}
			}
			return w.readyPods("") == 3
		})
		if took > 10*time.Second {
			t.Errorf("replaced after %s", took)
		}
		if a := w.app("web"); a.Status.Rollout.Phase != api.RolloutComplete || len(a.Status.History) != 0 {
			t.Errorf("a dead node is no rollout: %+v", a.Status)
		}
		w.machine["w2"].power(true)
		w.hearsay.set("w2", Alive, true)
		w.eventually("ready again", time.Second, func() bool { return w.verdict("w2") == api.VerdictReady })
	})
}

func TestAgentDownKeepsPodsForAMinute(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":3}`), 20*time.Second)
		w.allReady()
		time.Sleep(settle)
		w.machine["w1"].power(false)
		w.hearsay.set("w1", Alive, false)
		took := w.eventually("agent_down", 10*time.Second, func() bool { return w.verdict("w1") == api.VerdictAgentDown })
		if took < quiet/2 {
			t.Errorf("after %s: a restart of the agent would have done that", took)
		}
		time.Sleep(patience - 5*time.Second)
		if n := w.readyPods(""); n != 3 {
			t.Fatalf("%d pods serve", n)
		}
		w.eventually("replaced", 30*time.Second, func() bool {
			on := 0
			for _, p := range w.pods() {
				if p.Spec.Node == "w1" {
					on++
				}
			}
			return on == 0 && w.readyPods("") == 3
		})
	})
}

func TestPartitioned(t *testing.T) {
	inWorld(t, 2, nil, func(w *world) {
		w.allReady()
		time.Sleep(settle)
		w.hearsay.set("w1", Dead, true)
		w.eventually("partitioned", time.Second, func() bool { return w.verdict("w1") == api.VerdictPartitioned })
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":2}`), 20*time.Second)
		for _, p := range w.pods() {
			if p.Spec.Node != "w2" {
				t.Errorf("%s is on %s", p.Meta.Name, p.Spec.Node)
			}
		}
	})
}

// When most nodes vanish at once, the server is the one that is cut off.
func TestBrake(t *testing.T) {
	inWorld(t, 5, nil, func(w *world) {
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":5}`), 30*time.Second)
		w.allReady()
		time.Sleep(settle)
		for i := range 4 {
			w.hearsay.set(fmt.Sprintf("w%d", i+1), Dead, false)
		}
		time.Sleep(time.Hour)
		for i := range 4 {
			if v := w.verdict(fmt.Sprintf("w%d", i+1)); v == api.VerdictDead {
				t.Errorf("w%d is %s", i+1, v)
			}
		}
		if n := w.readyPods(""); n != 5 {
			t.Fatalf("%d pods are left", n)
		}
		revision := func() int64 {
			n, _ := client.Of(w.client, api.Nodes).Get(w.ctx, "", "w1")
			return n.Meta.Revision
		}
		before := revision()
		time.Sleep(time.Hour)
		if revision() != before {
			t.Error("a frozen verdict is written again and again")
		}
		for i := range 4 {
			w.hearsay.set(fmt.Sprintf("w%d", i+1), Alive, true)
		}
		w.allReady()
	})
}

// A server that begins to lead has heard nothing yet: that is no evidence.
func TestSilenceAtTheStartIsNoEvidence(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		w.allReady()
		h := newHearsay()
		n := newNodes(Config{Client: w.client, Witness: h, Log: nullLog})
		nodes, _, _ := client.Of(w.client, api.Nodes).List(w.ctx, "", nil)
		judgeAll := func() nodesPlan {
			return planNodes(nodes, func(string) []*api.Pod { return nil }, nil, n.listen(nodes, time.Now()), nil, n.started, time.Now())
		}
		for range 9 {
			if p := judgeAll(); !p.empty() || p.again == 0 {
				t.Fatalf("after %s: %s", time.Since(n.started), p)
			}
			time.Sleep(time.Second)
		}
		h.set("w1", Alive, true)
		h.set("w2", Alive, true)
		time.Sleep(settle)
		p := judgeAll()
		if len(p.verdicts) != 1 || p.verdicts[0].node.Meta.Name != "w3" || p.verdicts[0].health.Verdict != api.VerdictDead {
			t.Fatalf("after settling: %s", p)
		}
	})
}

func TestDeletedNodeLosesItsPods(t *testing.T) {
	inWorld(t, 2, nil, func(w *world) {
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":2}`), 20*time.Second)
		w.machine["w1"].power(false)
		if err := client.Of(w.client, api.Nodes).Delete(w.ctx, "", "w1", ""); err != nil {
			t.Fatal(err)
		}
		w.eventually("all on w2", 10*time.Second, func() bool {
			for _, p := range w.pods() {
				if p.Spec.Node != "w2" {
					return false
				}
			}
			return w.readyPods("") == 2
		})
	})
}

func TestServiceFollowsItsPods(t *testing.T) {
	inWorld(t, 2, nil, func(w *world) {
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":2,"ports":{"http":"80"}}`), 20*time.Second)
		services := client.Of(w.client, api.Services)
		svc := &api.Service{Meta: api.Meta{Name: "web", Namespace: w.ns}, Spec: api.ServiceSpec{App: "web", Ports: map[string]api.ServicePort{"http": {Port: 8080}}}}
		if _, err := services.Create(w.ctx, svc); err != nil {
			t.Fatal(err)
		}
		slices := client.Of(w.client, api.EndpointSlices)
		addresses := func() []api.Endpoint {
			synctest.Wait()
			items, _, err := slices.List(w.ctx, w.ns, client.By("service", "web"))
			if err != nil || len(items) > 1 {
				t.Fatal(items, err)
			}
			if len(items) == 0 {
				return nil
			}
			return items[0].Spec.Addresses
		}
		got := addresses()
		if len(got) != 2 || got[0].Ports["http"] != 80 || got[0].Draining || got[0].IP == "" {
			t.Fatalf("%+v", got)
		}
		// A pod that is asked to stop drains at once, and goes when it has ended.
		pods := client.Of(w.client, api.Pods)
		if err := pods.Delete(w.ctx, w.ns, got[0].Pod, ""); err != nil {
			t.Fatal(err)
		}
		if now := addresses(); len(now) != 2 || !now[0].Draining || now[1].Draining {
			t.Fatalf("%+v", now)
		}
		w.eventually("replaced", 10*time.Second, func() bool {
			now := addresses()
			return len(now) == 2 && !now[0].Draining && now[0].UID != got[0].UID && now[1].UID != got[0].UID
		})
		if err := services.Delete(w.ctx, w.ns, "web", ""); err != nil {
			t.Fatal(err)
		}
		if left := addresses(); left != nil {
			t.Errorf("slices outlive their service: %+v", left)
		}
	})
}

func TestNamespaceEmptiesInOrder(t *testing.T) {
	inWorld(t, 2, nil, func(w *world) {
		w.ns = "shop"
		namespaces := client.Of(w.client, api.Namespaces)
		if _, err := namespaces.Create(w.ctx, &api.Namespace{Meta: api.Meta{Name: "shop"}}); err != nil {
			t.Fatal(err)
		}
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":2,"ports":{"http":"80"}}`), 20*time.Second)
		svc := &api.Service{Meta: api.Meta{Name: "web", Namespace: "shop"}, Spec: api.ServiceSpec{App: "web", Ports: map[string]api.ServicePort{"http": {Port: 80}}}}
		if _, err := client.Of(w.client, api.Services).Create(w.ctx, svc); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := namespaces.Delete(w.ctx, "", "shop", ""); err != nil {
			t.Fatal(err)
		}
		said := ""
		took := w.eventually("gone", 30*time.Second, func() bool {
			ns, err := namespaces.Get(w.ctx, "", "shop")
			if err == nil && ns.Status.Message != "" {
				said = ns.Status.Message
			}
			return api.Is(err, api.NotFound)
		})
		if said == "" || took > 5*time.Second {
			t.Errorf("took %s, said %q", took, said)
		}
	})
}

// TestNamespaceKeepsWhatIsProtected: a volume that is protected keeps its
// namespace, with all that is in it as it is, and the namespace says the way out.
func TestNamespaceKeepsWhatIsProtected(t *testing.T) {
	inWorld(t, 1, nil, func(w *world) {
		w.ns = "shop"
		namespaces, volumes := client.Of(w.client, api.Namespaces), client.Of(w.client, api.Volumes)
		if _, err := namespaces.Create(w.ctx, &api.Namespace{Meta: api.Meta{Name: "shop"}}); err != nil {
			t.Fatal(err)
		}
		w.ended("web", w.apply("web", `{"image":"good:1"}`), 20*time.Second)
		data, err := volumes.Create(w.ctx, &api.Volume{Meta: api.Meta{Name: "data", Namespace: "shop"}, Spec: api.VolumeSpec{Size: "1Gi"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := namespaces.Delete(w.ctx, "", "shop", ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		ns, err := namespaces.Get(w.ctx, "", "shop")
		if err != nil || !slices.Equal(ns.Status.Blockers, []string{data.Ref().String()}) || !strings.HasSuffix(ns.Status.Message, "for deletion_protection = false on "+data.Ref().String()) {
			t.Fatalf("the namespace is %+v: %v", ns, err)
		}
		if w.readyPods("") != 1 {
			t.Error("what is in the namespace did not stay as it was")
		}
		data.Spec.DeletionProtection = new(bool)
		if _, err := volumes.Put(w.ctx, data); err != nil {
			t.Fatal(err)
		}
		w.eventually("gone", 30*time.Second, func() bool {
			_, err := namespaces.Get(w.ctx, "", "shop")
			return api.Is(err, api.NotFound)
		})
	})
}

// When most agents are silent while their machines answer, they cannot reach
// this server: their pods are left alone.
func TestMostAgentsSilentMovesNothing(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		w.ended("web", w.apply("web", `{"image":"good:1","replicas":3}`), 20*time.Second)
		time.Sleep(settle)
		w.hearsay.set("w1", Alive, false)
		w.hearsay.set("w2", Alive, false)
		time.Sleep(time.Hour)
		if w.verdict("w1") != api.VerdictAgentDown || w.readyPods("") != 3 {
			t.Fatalf("%s, %d pods serve", w.verdict("w1"), w.readyPods(""))
		}
		w.hearsay.set("w2", Alive, true)
		w.eventually("only one is left silent, and its pods move", 2*time.Minute, func() bool {
			for _, p := range w.pods() {
				if p.Spec.Node == "w1" {
					return false
				}
			}
			return w.readyPods("") == 3
		})
	})
}

// A third of 300 nodes vanishes at once, their streams within half a second and
// their gossip over two more, as the machines behind a switch do. Nothing is
// evicted, and verdicts and events say why; then they come back.
func TestThirdOfManyFreezesEvictions(t *testing.T) {
	const nodes, vanish = 300, 100
	inWorld(t, nodes, nil, func(w *world) {
		w.ended("web", w.apply("web", fmt.Sprintf(`{"image":"good:1","replicas":%d,"placement":{"one_per":"node"}}`, nodes)), 2*time.Minute)
		time.Sleep(settle)
		before := map[string]bool{}
		for _, p := range w.pods() {
			before[p.Meta.UID] = true
		}
		name := func(i int) string { return fmt.Sprintf("w%d", nodes-i) }
		for i := range vanish {
			w.machine[name(i)].power(false)
			go func() {
				sleep(w.ctx, time.Duration(i)*5*time.Millisecond)
				w.hearsay.set(name(i), Alive, false)
				sleep(w.ctx, time.Second+time.Duration(i)*20*time.Millisecond)
				w.hearsay.set(name(i), Dead, false)
			}()
		}
		time.Sleep(10 * time.Minute)
		all, _, err := client.Of(w.client, api.Nodes).List(w.ctx, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		frozenNodes := 0
		for _, n := range all {
			switch h := n.Status.Health; {
			case h.Verdict == api.VerdictPartitioned && strings.HasPrefix(h.Message, frozen):
				frozenNodes++
			case h.Verdict != api.VerdictReady:
				t.Errorf("%s is %s: %s", n.Meta.Name, h.Verdict, h.Message)
			}
		}
		if frozenNodes != vanish {
			t.Errorf("%d verdicts are frozen", frozenNodes)
		}
		events, _, err := client.Of(w.client, api.EventRings).List(w.ctx, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		says := func(e api.Event) bool {
			return strings.Contains(e.Message, fmt.Sprintf("%d of %d nodes vanished at once", vanish, nodes))
		}
		if !slices.ContainsFunc(events, func(of *api.Events) bool { return slices.ContainsFunc(of.Spec.Entries, says) }) {
			t.Error("no event says so")
		}
		for _, p := range w.pods() {
			if !before[p.Meta.UID] || p.Status.Phase != api.PhaseRunning || p.Meta.Deleting() {
				t.Fatalf("%s on %s is %s", p.Meta.Name, p.Spec.Node, p.Status.Phase)
			}
		}
		for i := range vanish {
			w.machine[name(i)].power(true)
			w.hearsay.set(name(i), Alive, true)
		}
		w.allReady()
		if n := w.readyPods(""); n != nodes {
			t.Errorf("%d pods serve", n)
		}
	})
}
