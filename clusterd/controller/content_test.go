package controller

import (
	"fmt"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// TestPlanContent: which versions of a config or secret are kept.
func TestPlanContent(t *testing.T) {
	type given struct {
		Hash     string
		Age      float64            // of what is current
		Versions map[string]float64 // age by hash
		Needed   []string
		UsedBy   []string
		Status   api.VersionedStatus
	}
	plans(t, "content", func(_ *testing.T, g given) fmt.Stringer {
		v := versioned{Of: "config/web", Hash: g.Hash, WrittenAt: ago(g.Age), Status: g.Status, UsedBy: g.UsedBy, Needed: map[string]bool{}}
		for _, hash := range []string{"a", "b", "c", "d"} {
			if age, ok := g.Versions[hash]; ok {
				v.Versions = append(v.Versions, &api.Content{Meta: api.Meta{CreatedAt: ago(age)}, Spec: api.ContentSpec{Of: "config/web", Hash: hash, Keys: []string{"level"}}})
			}
		}
		for _, hash := range g.Needed {
			v.Needed[hash] = true
		}
		return planContent(v, noon)
	})
}

// TestVersionsGo: versions that nobody needs are removed, those of a config that
// is deleted too, and a namespace with some is emptied.
func TestVersionsGo(t *testing.T) {
	inWorld(t, 1, nil, func(w *world) {
		configs, versions := client.Of(w.client, api.Configs), client.Of(w.client, api.Contents)
		write := func(level string) {
			c := &api.Config{Meta: api.Meta{Name: "web", Namespace: w.ns}, Spec: api.ConfigSpec{Data: map[string]string{"level": level}}}
			if _, err := configs.Put(w.ctx, c); err != nil {
				t.Fatal(err)
			}
		}
		kept := func() int {
			all, _, err := versions.List(w.ctx, w.ns, client.By("of", "config/web"))
			if err != nil {
				t.Fatal(err)
			}
			return len(all)
		}
		for _, level := range []string{"debug", "info", "warn"} {
			write(level)
		}
		w.eventually("the status names the version", time.Second, func() bool {
			c, err := configs.Get(w.ctx, w.ns, "web")
			return err == nil && c.Status.Hash == api.ConfigHash("config/web", map[string]string{"level": "warn"}) && len(c.Status.Keys) == 1
		})
		if n := kept(); n != 3 {
			t.Fatalf("%d versions are kept at first, want 3", n)
		}
		w.eventually("only the current version is kept", 2*versionRest, func() bool { return kept() == 1 })
		if err := configs.Delete(w.ctx, w.ns, "web", ""); err != nil {
			t.Fatal(err)
		}
		w.eventually("no version is kept", 5*time.Second, func() bool { return kept() == 0 })
	})
}
