package controller

import (
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// Every ordinal has a volume of its own, which outlives its pods and the app,
// and grows with what is declared.
func TestOrdinalsHaveVolumes(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		spec := func(size string) string {
			return `{"image":"good:1","replicas":2,"stateful":{},"mounts":{"/data":{"volume":"data","size":"` + size + `"}}}`
		}
		if ro := w.ended("db", w.apply("db", spec("1Gi")), 5*time.Minute); ro.Phase != api.RolloutComplete {
			t.Fatalf("%+v", ro)
		}
		for _, p := range w.pods() {
			want := api.OrdinalName("data", *p.Spec.Ordinal)
			if uses := p.Spec.Uses(); len(uses) != 1 || uses[0].Name != want {
				t.Errorf("%s mounts %v, want %s", p.Meta.Name, uses, want)
			}
		}
		if ro := w.ended("db", w.apply("db", spec("2Gi")), 5*time.Minute); ro.Phase != api.RolloutComplete {
			t.Fatalf("%+v", ro)
		}
		volumes := client.Of(w.client, api.Volumes)
		sizes := func() (out []string) {
			all, _, err := volumes.List(w.ctx, w.ns, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range all {
				out = append(out, v.Meta.Name+"="+string(v.Spec.Size))
			}
			return out
		}
		if got := sizes(); len(got) != 2 || got[0] != "data-0=2Gi" || got[1] != "data-1=2Gi" {
			t.Errorf("volumes are %v", got)
		}
		if err := client.Of(w.client, api.Apps).Delete(w.ctx, w.ns, "db", ""); err != nil {
			t.Fatal(err)
		}
		w.eventually("the app is gone", 5*time.Minute, func() bool { return w.app("db") == nil })
		if got := sizes(); len(got) != 2 {
			t.Errorf("with the app, its volumes went: %v", got)
		}
	})
}
