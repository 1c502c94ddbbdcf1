package controller

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// way is what a loop takes its objects through, from the first to the last,
// with what must hold on the way.
type way struct {
	wrap func(*world, http.Handler) http.Handler // what the loops see of the API; nil: all
	live func(*world)
}

// lives has one for each loop, by the loops it is of.
var lives = map[string]way{
	"app":                {live: life},
	"app, stateful":      {live: statefulLife},
	"app, per_node":      {live: perNodeLife},
	"app, scale":         {live: scaleLife, wrap: halfUsed},
	"job":                {live: jobLife},
	"job, schedule":      {live: cronLife},
	"service, headless":  {live: serviceLife},
	"namespace":          {live: namespaceLife},
	"volume":             {live: volumeLife},
	"content":            {live: contentLife},
	"node":               {live: nodeLife},
	"drain":              {live: drainLife},
	"scheduler, preempt": {live: preemptLife},
}

// complete applies an app and expects its rollout to succeed.
func (w *world) complete(name, spec string) *api.Rollout {
	w.t.Helper()
	ro := w.ended(name, w.apply(name, spec), 10*time.Minute)
	if ro.Phase != api.RolloutComplete {
		w.t.Fatalf("%s: %+v", name, ro)
	}
	return ro
}

// without deletes an object and waits until it is gone.
func without[O api.Any](w *world, k *api.Kind[O], namespace, name string) {
	w.t.Helper()
	objects := client.Of(w.client, k)
	if err := objects.Delete(w.ctx, namespace, name, ""); err != nil {
		w.t.Fatal(err)
	}
	w.eventually(name+" is gone", 5*time.Minute, func() bool {
		_, err := objects.Get(w.ctx, namespace, name)
		return api.Is(err, api.NotFound)
	})
}

func statefulLife(w *world) {
	audited := w.audit(nil)
	spec := func(image string, replicas int, size string) string {
		return fmt.Sprintf(`{"image":%q,"replicas":%d,"stateful":{},"mounts":{"/data":{"volume":"data","size":%q}}}`, image, replicas, size)
	}
	w.complete("db", spec("good:1", 2, "1Gi"))
	w.complete("db", spec("good:2", 3, "2Gi"))
	g := w.apply("db", spec("bad:1", 3, "2Gi"))
	if ro := w.ended("db", g, 10*time.Minute); ro.Phase != api.RolloutRolledBack {
		w.t.Fatalf("bad update: %+v", ro)
	}
	if ro := w.ended("db", g+1, 10*time.Minute); ro.Phase != api.RolloutComplete {
		w.t.Fatalf("rollback: %+v", ro)
	}
	w.complete("db", spec("good:2", 1, "2Gi"))
	w.eventually("one pod", 5*time.Minute, func() bool { return len(w.pods()) == 1 && w.readyPods("") == 1 })
	before := w.pods()[0].Spec.Epoch
	without(w, api.Apps, w.ns, "db")
	w.complete("db", spec("good:3", 1, "2Gi"))
	if p := w.pods()[0]; p.Spec.Epoch <= before {
		w.t.Errorf("epoch %d after %d", p.Spec.Epoch, before)
	}
	w.eventually("its volumes are as they were, and bound", time.Minute, func() bool {
		all, _, err := client.Of(w.client, api.Volumes).List(w.ctx, w.ns, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		return len(all) == 3 && !slices.ContainsFunc(all, func(v *api.Volume) bool { return v.Status.Phase != api.VolumeBound || v.Spec.Size != "2Gi" })
	})
	audited()
}

func perNodeLife(w *world) {
	audited := w.audit(nil)
	spec := func(image string) string { return fmt.Sprintf(`{"image":%q,"per_node":true}`, image) }
	w.complete("log", spec("good:1"))
	w.complete("log", spec("good:2"))
	w.edit("w2", func(n *api.Node) { n.Spec.Taints = map[string]string{"dedicated": "shop:no_execute"} })
	w.eventually("the tainted node has none", 5*time.Minute, func() bool { on := w.onNodes(""); return len(on) == 2 && on["w2"] == 0 })
	w.edit("w2", func(*api.Node) {})
	w.eventually("each has one again", 5*time.Minute, func() bool { return len(w.onNodes("good:2")) == 3 && len(w.pods()) == 3 })
	without(w, api.Apps, w.ns, "log")
	audited()
}

// halfUsed answers for all ready pods that they use half a tenth of a core,
// which is what scaleLife aims at, twice that of image good:2.
func halfUsed(w *world, h http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/usage" {
			h.ServeHTTP(rw, r)
			return
		}
		var said api.UsageAnswer
		for _, p := range w.pods() {
			if p.Status.Ready {
				said.Items = append(said.Items, api.PodUsage{UID: p.Meta.UID, CPU: map[bool]int64{false: 50, true: 100}[p.Spec.Image == "good:2"]})
			}
		}
		rw.Header().Set("Content-Type", "application/json")
		json.NewEncoder(rw).Encode(said)
	})
}

// scaleLife: with leaders that end before they have watched for as long as a
// window is, nothing becomes fewer, but more comes at once.
func scaleLife(w *world) {
	audited := w.audit(nil)
	spec := func(image string) string {
		return fmt.Sprintf(`{"image":%q,"cpu":"100m","scale":{"min":2,"max":4,"cpu":50}}`, image)
	}
	g := w.ended("web", w.apply("web", spec("good:1")), 10*time.Minute).Generation
	w.eventually("as many as are enough", 5*time.Minute, func() bool { return w.readyPods("") == 2 && w.app("web").Status.Desired == 2 })
	w.complete("web", spec("good:2"))
	w.eventually("as many as may be", 5*time.Minute, func() bool { return w.readyPods("") == 4 && w.app("web").Status.Desired == 4 })
	if a := w.app("web"); a.Spec.Replicas != nil || a.Meta.Generation != g+1 {
		w.t.Errorf("the scaler wrote the spec: generation %d, %+v", a.Meta.Generation, a.Spec)
	}
	audited()
}

func cronLife(w *world) {
	audited := w.audit(nil)
	w.run("tick", `{"image":"good:1","schedule":"* * * * *","keep":50,"catch_up":"5m"}`)
	time.Sleep(10*time.Minute + 30*time.Second)
	runs := map[time.Time]bool{}
	for _, r := range w.job("tick").Status.Runs {
		if runs[r.ScheduledFor] || r.Phase == api.RunFailed || r.Phase == api.RunCancelled {
			w.t.Errorf("%+v", r)
		}
		runs[r.ScheduledFor] = true
	}
	if len(runs) < 8 { // those that were skipped for another that still ran are counted together
		w.t.Errorf("%d runs within ten minutes", len(runs))
	}
	without(w, api.Jobs, w.ns, "tick")
	w.eventually("no pods", time.Minute, func() bool { return len(w.pods()) == 0 })
	audited()
}

func serviceLife(w *world) {
	spec := func(image string, n int) string {
		return fmt.Sprintf(`{"image":%q,"replicas":%d,"ports":{"http":"80"}}`, image, n)
	}
	w.complete("web", spec("good:1", 2))
	svc := &api.Service{Meta: api.Meta{Name: "shop", Namespace: w.ns}, Spec: api.ServiceSpec{App: "web", Ports: map[string]api.ServicePort{"http": {Port: 8080}}}}
	if _, err := client.Of(w.client, api.Services).Create(w.ctx, svc); err != nil {
		w.t.Fatal(err)
	}
	slicesOf := client.Of(w.client, api.EndpointSlices)
	// true reports whether slices name the ready pods, and no others.
	named := func(by string, name string) bool {
		all, _, err := slicesOf.List(w.ctx, w.ns, client.By(by, name))
		if err != nil {
			w.t.Fatal(err)
		}
		in := map[string]bool{}
		for _, s := range all {
			for _, e := range s.Spec.Addresses {
				if in[e.UID] || e.Draining {
					return false
				}
				in[e.UID] = true
			}
		}
		pods := w.pods()
		return len(in) == len(pods) && !slices.ContainsFunc(pods, func(p *api.Pod) bool { return !in[p.Meta.UID] })
	}
	w.eventually("the service leads to two", time.Minute, func() bool { return named("service", "shop") })
	w.complete("web", spec("good:2", 4))
	w.eventually("the service leads to four", 5*time.Minute, func() bool { return len(w.pods()) == 4 && named("service", "shop") })
	without(w, api.Services, w.ns, "shop")
	w.eventually("the app's own name leads there", 5*time.Minute, func() bool {
		left, _, err := slicesOf.List(w.ctx, w.ns, client.By("service", "shop"))
		return err == nil && len(left) == 0 && named("app", "web")
	})
	without(w, api.Apps, w.ns, "web")
	w.eventually("no slices", 5*time.Minute, func() bool {
		left, _, err := slicesOf.List(w.ctx, w.ns, nil)
		return err == nil && len(left) == 0
	})
}

func namespaceLife(w *world) {
	w.ns = "team"
	if _, err := client.Of(w.client, api.Namespaces).Create(w.ctx, &api.Namespace{Meta: api.Meta{Name: w.ns}}); err != nil {
		w.t.Fatal(err)
	}
	w.grant(api.Quota{CPU: "1"})
	w.config("info")
	w.complete("web", `{"image":"good:1","replicas":2,"cpu":"100m","ports":{"http":"80"},"configs":{"LEVEL":"web/level"}}`)
	w.run("mend", `{"image":"slow:1","cpu":"100m"}`)
	svc := &api.Service{Meta: api.Meta{Name: "web", Namespace: w.ns}, Spec: api.ServiceSpec{App: "web", Ports: map[string]api.ServicePort{"http": {Port: 80}}}}
	if _, err := client.Of(w.client, api.Services).Create(w.ctx, svc); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("what is used is said", 5*time.Minute, func() bool {
		ns, err := client.Of(w.client, api.Namespaces).Get(w.ctx, "", w.ns)
		return err == nil && ns.Status.Used.CPU.Milli() == 300 && ns.Status.Used.Replicas == 3
	})
	without(w, api.Namespaces, "", w.ns)
	if left := w.pods(); len(left) > 0 {
		w.t.Errorf("%d pods outlive their namespace", len(left))
	}
}

func volumeLife(w *world) {
	volumes := client.Of(w.client, api.Volumes)
	volume := func() *api.Volume {
		v, err := volumes.Get(w.ctx, w.ns, "files")
		if err != nil {
			w.t.Fatal(err)
		}
		return v
	}
	if _, err := volumes.Create(w.ctx, &api.Volume{Meta: api.Meta{Name: "files", Namespace: w.ns}, Spec: api.VolumeSpec{Size: "1Gi", DeletionProtection: new(false)}}); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("it is pending", time.Minute, func() bool { return volume().Status.Phase == api.VolumePending })
	w.complete("web", `{"image":"good:1","mounts":{"/files":{"volume":"files"}},"update":{"strategy":"recreate"}}`)
	w.eventually("it is bound and used", time.Minute, func() bool {
		st := volume().Status
		return st.Phase == api.VolumeBound && len(st.UsedBy) == 1 && st.Node == w.pods()[0].Spec.Node
	})
	without(w, api.Apps, w.ns, "web")
	w.eventually("nobody uses it", time.Minute, func() bool { return len(volume().Status.UsedBy) == 0 })
	home := volume().Status.Node
	w.machine[home].power(false)
	w.hearsay.set(home, Dead, false)
	w.eventually("its node is dead, and it is lost", 10*time.Minute, func() bool { return volume().Status.Phase == api.VolumeLost })
	w.machine[home].power(true)
	w.hearsay.set(home, Alive, true)
	w.eventually("it is back", 10*time.Minute, func() bool { return volume().Status.Phase == api.VolumeBound })
	if err := client.Of(w.client, api.Nodes).Delete(w.ctx, "", home, ""); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("it is lost for good", 5*time.Minute, func() bool { return volume().Status.Phase == api.VolumeLost })
	without(w, api.Volumes, w.ns, "files")
}

// contentLife: the current version of a config is there at all times, versions
// that nobody needs go, and a version that makes its app fail is taken back.
func contentLife(w *world) {
	w.config("one")
	w.complete("api", reads)
	hashes := func() (out []string) {
		all, _, err := client.Of(w.client, api.Contents).List(w.ctx, w.ns, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, c := range all {
			if c.Spec.Of == "config/web" {
				out = append(out, c.Spec.Hash)
			}
		}
		return out
	}
	hash := ""
	for _, level := range []string{"two", "three"} {
		hash = w.config(level)
		w.eventually("it is rolled out", 10*time.Minute, func() bool {
			if !slices.Contains(hashes(), hash) {
				w.t.Fatalf("the current version of %s is gone", level)
			}
			ro := w.app("api").Status.Rollout
			return ro.Phase == api.RolloutComplete && ro.Contents["config/web"] == hash
		})
	}
	w.poison.Store(api.ConfigHash("config/web", map[string]string{"level": "loud"}), true)
	w.config("loud")
	w.eventually("it is taken back", 10*time.Minute, func() bool {
		c, err := client.Of(w.client, api.Configs).Get(w.ctx, w.ns, "web")
		ro := w.app("api").Status.Rollout
		return err == nil && c.Spec.Data["level"] == "three" && ro.Phase == api.RolloutComplete && ro.Contents["config/web"] == hash
	})
	without(w, api.Apps, w.ns, "api")
	w.eventually("only the current version is left", 10*time.Minute, func() bool {
		left := hashes()
		return len(left) == 1 && left[0] == hash
	})
	if err := client.Of(w.client, api.Configs).Delete(w.ctx, w.ns, "web", ""); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("none is left", 10*time.Minute, func() bool { return len(hashes()) == 0 })
}

func nodeLife(w *world) {
	audited := w.audit(nil)
	w.complete("web", `{"image":"good:1","replicas":3}`)
	elsewhere := func(not string) func() bool {
		return func() bool {
			on := w.onNodes("")
			return w.readyPods("") == 3 && on[not] == 0
		}
	}
	w.cut("w2")
	w.eventually("dead", 10*time.Minute, func() bool { return w.verdict("w2") == api.VerdictDead })
	w.eventually("replaced", 10*time.Minute, elsewhere("w2"))
	w.machine["w2"].power(true)
	w.hearsay.set("w2", Alive, true)
	w.eventually("ready again", 10*time.Minute, func() bool { return w.verdict("w2") == api.VerdictReady })
	w.machine["w1"].power(false)
	w.hearsay.set("w1", Alive, false)
	w.eventually("without its agent", 10*time.Minute, func() bool { return w.verdict("w1") == api.VerdictAgentDown })
	w.eventually("replaced", 10*time.Minute, elsewhere("w1"))
	if err := client.Of(w.client, api.Nodes).Delete(w.ctx, "", "w1", ""); err != nil {
		w.t.Fatal(err)
	}
	if err := client.Of(w.client, api.Nodes).Delete(w.ctx, "", "w3", ""); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("all on what is left", 10*time.Minute, func() bool { return w.onNodes("")["w2"] == 3 && len(w.pods()) == 3 })
	audited()
}

// drainLife: a drained node empties without a moment in which fewer serve than
// may, says so, and takes pods again.
func drainLife(w *world) {
	audited := w.audit(nil)
	w.complete("web", `{"image":"good:1","replicas":3}`)
	w.complete("one", `{"image":"good:1"}`)
	stop, stopOne := watchPromises(w, "web", 3, 1, 2), watchPromises(w, "one", 1, 1, 1)
	drain := func() *api.DrainStatus {
		n, err := client.Of(w.client, api.Nodes).Get(w.ctx, "", "w1")
		if err != nil {
			w.t.Fatal(err)
		}
		return n.Status.Drain
	}
	w.edit("w1", func(n *api.Node) { n.Spec.Drain = &api.Drain{Deadline: "30m"} })
	w.eventually("drained", 10*time.Minute, func() bool { d := drain(); return d != nil && d.Phase == api.DrainDone && w.onNodes("")["w1"] == 0 })
	w.edit("w1", func(*api.Node) {})
	w.eventually("nothing is left of the drain", 5*time.Minute, func() bool { return drain() == nil })
	stop()
	stopOne()
	w.complete("web", `{"image":"good:2","replicas":6}`)
	if w.onNodes("")["w1"] == 0 {
		w.t.Error("it takes no pods")
	}
	audited()
}

// preemptLife: pods of a high priority find room where there is none, and those
// they take it from come back once there is.
func preemptLife(w *world) {
	audited := w.audit(nil)
	w.complete("low", `{"image":"good:1","replicas":6,"cpu":"900m","placement":{"priority":10},"update":{"min_available":0}}`)
	w.complete("high", `{"image":"good:1","replicas":2,"cpu":"900m","placement":{"priority":90}}`)
	ready := func(app string) (n int) {
		for _, p := range w.pods() {
			if p.Spec.App == app && p.Status.Ready && !p.Meta.Deleting() {
				n++
			}
		}
		return n
	}
	w.eventually("four are left of the others", 10*time.Minute, func() bool { return ready("high") == 2 && ready("low") == 4 })
	without(w, api.Apps, w.ns, "high")
	w.eventually("all are back", 10*time.Minute, func() bool { return ready("low") == 6 })
	audited()
}
