package apiserver

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func makeVolume(t *testing.T, c *client.Client, name string, spec api.VolumeSpec) {
	t.Helper()
	must(client.Of(c, api.Volumes).Create(t.Context(), &api.Volume{Meta: api.Meta{Namespace: "default", Name: name}, Spec: spec}))(t)
}

func makeUser(t *testing.T, c *client.Client, name string, mounts map[string]api.Mount) {
	t.Helper()
	p := &api.Pod{Meta: api.Meta{Namespace: "default", Name: name}}
	p.Spec.Container = api.Container{Image: "nginx:1", CPU: "10m", Memory: "8Mi", Mounts: mounts}
	must(client.Of(c, api.Pods).Create(t.Context(), p))(t)
}

func refusedWith(t *testing.T, err error, code api.Code, words string) {
	t.Helper()
	if !api.Is(err, code) || !strings.Contains(err.Error(), words) {
		t.Errorf("want %q, got %v", words, err)
	}
}

// TestVolumeIsBoundWithItsFirstPod: in the bind's own transaction, for good;
// one pod at a time writes to it, and one that is used or protected stays.
func TestVolumeIsBoundWithItsFirstPod(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		ctx, volumes := t.Context(), client.Of(c, api.Volumes)
		makeNode(t, c, "w1", "1", "1Gi")
		makeNode(t, c, "w2", "1", "1Gi")
		makeVolume(t, c, "data", api.VolumeSpec{Size: "1Gi"})
		makeVolume(t, c, "pinned", api.VolumeSpec{Size: "1Gi", Node: "w2"})
		write, read := map[string]api.Mount{"/d": {Volume: "data"}}, map[string]api.Mount{"/d": {Volume: "data", ReadOnly: new(bool)}}
		*read["/d"].ReadOnly = true
		makeUser(t, c, "a", write)
		makeUser(t, c, "b", write)
		makeUser(t, c, "r", read)
		makeUser(t, c, "p", map[string]api.Mount{"/d": {Volume: "pinned"}})
		makeUser(t, c, "n", map[string]api.Mount{"/d": {Volume: "none"}})
		bindPod(t, c, "a", "w1")
		v := must(volumes.Get(ctx, "default", "data"))(t)
		if v.Status.Node != "w1" || v.Status.Phase != api.VolumeBound {
			t.Errorf("after the bind: %+v", v.Status)
		}
		refusedWith(t, tryBind(t, c, "b", "w1"), api.Conflict, "volume data is used by pod a")
		refusedWith(t, tryBind(t, c, "b", "w2"), api.Conflict, "volume data is on node w1")
		refusedWith(t, tryBind(t, c, "p", "w1"), api.Conflict, "volume pinned is on node w2")
		refusedWith(t, tryBind(t, c, "n", "w1"), api.Conflict, "volume none does not exist")
		bindPod(t, c, "r", "w1")

		v.Spec.Size = "512Mi"
		_, err := volumes.Put(ctx, v)
		refusedWith(t, err, api.Invalid, "cannot shrink")
		v.Spec = api.VolumeSpec{Size: "2Gi", Node: "w2"}
		_, err = volumes.Put(ctx, v)
		refusedWith(t, err, api.Invalid, "on node w1 for good")
		refusedWith(t, volumes.Delete(ctx, "default", "data", ""), api.Conflict, "deletion_protection = false")
		off := false
		v.Spec = api.VolumeSpec{Size: "2Gi", DeletionProtection: &off}
		must(volumes.Put(ctx, v))(t)
		refusedWith(t, volumes.Delete(ctx, "default", "data", ""), api.Conflict, "is used by pod")

		pods := client.Of(c, api.Pods)
		for _, name := range []string{"a", "r"} {
			p := must(pods.Get(ctx, "default", name))(t)
			p.Status.Phase = api.PhaseFailed
			must(pods.PutStatus(ctx, p))(t)
		}
		bindPod(t, c, "b", "w1") // a has ended
		p := must(pods.Get(ctx, "default", "b"))(t)
		p.Status.Phase = api.PhaseFailed
		must(pods.PutStatus(ctx, p))(t)
		if err := volumes.Delete(ctx, "default", "data", ""); err != nil {
			t.Fatal(err)
		}
		makeUser(t, c, "late", write)
		refusedWith(t, tryBind(t, c, "late", "w1"), api.Conflict, "volume data is being deleted")
		force := client.Path(api.Volumes.Info(), "default", "data") + "?force=true"
		if code, got := call(s, system, "DELETE", force, ""); code != 409 || !strings.Contains(got, "its node removes the data") {
			t.Errorf("force: %d %s", code, got)
		}
		v = must(volumes.Get(ctx, "default", "data"))(t)
		v.Status.Phase = api.VolumeLost
		must(volumes.PutStatus(ctx, v))(t)
		if code, got := call(s, system, "DELETE", force, ""); code != 200 {
			t.Errorf("force: %d %s", code, got)
		}
		if _, err := volumes.Get(ctx, "default", "data"); !api.Is(err, api.NotFound) {
			t.Error(err)
		}
	})
}

// TestVolumeHasOneWriter however many binds race, alone and in one batch.
func TestVolumeHasOneWriter(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		makeNode(t, c, "w1", "1", "1Gi")
		makeNode(t, c, "w2", "1", "1Gi")
		makeVolume(t, c, "data", api.VolumeSpec{Size: "1Gi"})
		var batch []api.BatchWrite
		for i := range 8 {
			name := fmt.Sprintf("p%d", i)
			makeUser(t, c, name, map[string]api.Mount{"/d": {Volume: "data"}})
			batch = append(batch, api.BatchWrite{Bind: &api.Binding{Namespace: "default", Pod: name, Node: "w1"}})
		}
		if _, err := c.Batch(t.Context(), batch[:2]); !api.Is(err, api.Conflict) {
			t.Errorf("two in one batch: %v", err)
		}
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() { tryBind(t, c, fmt.Sprintf("p%d", i), []string{"w1", "w2"}[i%2]) })
		}
		wg.Wait()
		all, _, err := client.Of(c, api.Pods).List(t.Context(), "default", nil)
		bound := 0
		for _, p := range all {
			if p.Spec.Node != "" {
				bound++
			}
		}
		if err != nil || bound != 1 {
			t.Errorf("%d pods are bound: %v", bound, err)
		}
	})
}

// TestNodeKnowsItsOwnVolumes, and tells of them alone.
func TestNodeKnowsItsOwnVolumes(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		makeNode(t, c, "w1", "1", "1Gi")
		makeNode(t, c, "w2", "1", "1Gi")
		makeVolume(t, c, "data", api.VolumeSpec{Size: "1Gi"})
		makeUser(t, c, "a", map[string]api.Mount{"/d": {Volume: "data"}})
		bindPod(t, c, "a", "w1")
		for name, may := range map[string]bool{"w1": true, "w2": false} {
			own := client.Of(client.InProcess(s.InProcess(Identity{Role: RoleNode, Name: name})), api.Volumes)
			v, err := own.Get(t.Context(), "default", "data")
			if (err == nil) != may {
				t.Errorf("%s reads it: %v", name, err)
			}
			if v == nil {
				v = &api.Volume{Meta: api.Meta{Namespace: "default", Name: "data"}}
			}
			v.Status.Data.Size = "1Gi"
			if _, err := own.PutPart(t.Context(), v, "data"); (err == nil) != may {
				t.Errorf("%s tells of it: %v", name, err)
			}
			if _, err := own.PutStatus(t.Context(), v); err == nil {
				t.Errorf("%s writes its whole status", name)
			}
			list, _, err := own.List(t.Context(), "", client.By("node", name))
			if err != nil || (len(list) == 1) != may {
				t.Errorf("%s lists %d: %v", name, len(list), err)
			}
		}
	})
}
