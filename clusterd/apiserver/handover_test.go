package apiserver

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// TestHandover: what a server takes over from its own writes is what it would
// decode from the store, and nothing waits to be taken over in the end.
func TestHandover(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		makeNode(t, c, "w1", "8", "8Gi")
		two := 2
		for i, change := range []func(*api.Pod){
			func(p *api.Pod) { p.Meta.Labels, p.Spec.App = map[string]string{"a": "b"}, "web" },
			func(p *api.Pod) { p.Meta.Owner = &api.Ref{Kind: "App", Namespace: "default", Name: "web"} },
			func(p *api.Pod) { p.Spec.Ordinal, p.Spec.Env = &two, map[string]string{"node": "<&>"} },
			func(p *api.Pod) { p.Spec.Ports = map[string]api.Port{"http": "80"} },
			func(p *api.Pod) { p.Spec.Node = "w1" },
		} {
			p := &api.Pod{Kind: "Pod", Meta: api.Meta{Namespace: "default", Name: fmt.Sprint("p", i)}}
			p.Spec.Container = api.Container{Image: "nginx:1", CPU: "100m", Memory: "64Mi"}
			change(p)
			if _, err := c.Batch(t.Context(), []api.BatchWrite{{Create: marshal(p)}}); err != nil {
				t.Fatal(err)
			}
			bindPod(t, c, p.Meta.Name, "w1")
			bindPod(t, c, p.Meta.Name, "w1")
			if err := tryBind(t, c, p.Meta.Name, "w2"); err == nil {
				t.Error("bound twice")
			}
		}
		synctest.Wait()
		if n := len(s.cache.written.objects); n != 0 {
			t.Errorf("%d objects were never taken", n)
		}
		page, err := s.store.List(t.Context(), store.Range{Prefix: s.kinds["pods"].prefix(""), Limit: 100})
		if err != nil || len(page.Entries) != 5 {
			t.Fatal(len(page.Entries), err)
		}
		typed := 0
		for _, e := range page.Entries {
			want, err := s.decode(e)
			if err != nil {
				t.Fatal(err)
			}
			got := *s.cache.now.Load().get(e.Key)
			if got.known != nil {
				typed++
				if pod, err := want.typed(); err != nil || !reflect.DeepEqual(got.known, pod) {
					t.Errorf("%s as a pod (%v):\n got %+v\nwant %+v", e.Key, err, got.known, pod)
				}
			}
			if got.known = nil; !reflect.DeepEqual(&got, want) {
				t.Errorf("%s:\n got %+v\nwant %+v", e.Key, got, want)
			}
		}
		if typed == 0 {
			t.Error("of no pod that was written here the type was kept")
		}
	})
}

// TestHandoverOfOtherBytes: what was expected is not taken for what another
// writer wrote, nor once it was not written.
func TestHandoverOfOtherBytes(t *testing.T) {
	var h handover
	pod := &api.Pod{Kind: "Pod", Meta: api.Meta{Namespace: "default", Name: "a"}}
	k := kindTable()["pods"]
	o := &object{key: k.key("default", "a"), kind: k, meta: pod.Meta, spec: json.RawMessage(`{"image":"n:1"}`), known: pod}
	o.value = o.encode()
	staged := map[string]*object{o.key: o, "gone": nil, "plain": {key: "plain", value: []byte("{}")}}
	h.expect(staged)
	if h.take(store.Entry{Key: o.key, Value: []byte(`{"kind":"Pod"}`), Revision: 3}) != nil {
		t.Error("other bytes were taken for it")
	}
	if got := h.take(store.Entry{Key: o.key, Value: o.encode(), Revision: 4}); got == nil || got.meta.Revision != 4 || o.meta.Revision != 0 {
		t.Errorf("took %+v", got)
	}
	h.expect(staged)
	h.forget(map[string]*object{o.key: o.with()}) // of another transaction
	if len(h.objects) != 1 {
		t.Error("another transaction's end dropped it")
	}
	h.forget(staged)
	if len(h.objects) != 0 {
		t.Error("it is expected though it was not written")
	}
}

// TestWithNode: a spec that is extended means what one that is decoded does.
func TestWithNode(t *testing.T) {
	for _, spec := range []string{`{}`, `{"image":"n:1"}`, `{"image":"n:1","node":""}`, `{"env":{"node":"x"}}`, `{"image":"\"node\""}`} {
		got, err := withNode(json.RawMessage(spec), "w1")
		if err != nil {
			t.Fatal(err)
		}
		var want map[string]any
		if err := json.Unmarshal([]byte(spec), &want); err != nil {
			t.Fatal(err)
		}
		want["node"] = "w1"
		if !sameJSON(got, marshal(want)) {
			t.Errorf("%s: %s", spec, got)
		}
	}
}
