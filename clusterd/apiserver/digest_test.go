package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// shelf is a Registry: digests by reference.
type shelf struct {
	mu    sync.Mutex
	has   map[string]string
	asked []string
}

func (s *shelf) Digest(_ context.Context, ref, username, password string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, strings.TrimRight(ref+" "+username+" "+password, " "))
	if s.has[ref] == "" {
		return "", errors.New("the registry has no such image")
	}
	return s.has[ref], nil
}

func (s *shelf) moves(ref, digest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.has[ref] = digest
}

// log returns what was asked since it was last called.
func (s *shelf) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := strings.Join(s.asked, ", ")
	s.asked = nil
	return out
}

// sha is the n-th digest.
func sha(n int) string { return fmt.Sprintf("sha256:%064x", n) }

func onShelf(t *testing.T, has map[string]string, f func(t *testing.T, s *Server, c *client.Client, r *shelf)) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		r := &shelf{has: has}
		s.cfg.Registry = r
		f(t, s, c, r)
	})
}

// writeApp writes the app web as a user declares it.
func writeApp(t *testing.T, c *client.Client, spec string) *api.App {
	t.Helper()
	a := new(api.App)
	if err := c.Call(t.Context(), http.MethodPut, client.Path(api.Apps.Info(), "default", "web"), nil, json.RawMessage(`{"spec":`+spec+`}`), a); err != nil {
		t.Fatal(err)
	}
	return a
}

// What a plan found is what the write gets, whatever became of the tag; the
// spec stays as it was declared.
func TestAWriteGetsTheDigestOfItsPlan(t *testing.T) {
	onShelf(t, map[string]string{"nginx:1": sha(1), "log:1": sha(2)}, func(t *testing.T, s *Server, c *client.Client, r *shelf) {
		const spec = `{"image":"nginx:1","sidecars":{"log":{"image":"log:1"}},"init":{"first":{"command":["x"]}}}`
		p := planOf(t, c, spec)
		if len(p.Warnings) > 0 || p.Images["nginx:1"] != sha(1) || p.Images["log:1"] != sha(2) || len(p.Images) != 2 {
			t.Errorf("%+v", p)
		}
		r.moves("nginx:1", sha(3))
		p = planOf(t, c, spec) // as Terraform does once more, at apply
		if p.Images["nginx:1"] != sha(1) || len(p.Warnings) != 1 || p.Warnings[0].Path != "spec.image" || !strings.Contains(p.Warnings[0].Message, "declare nginx:1@"+sha(3)) {
			t.Errorf("after the tag moved: %+v", p)
		}
		r.log()
		a := writeApp(t, c, spec)
		if a.Spec.Image != "nginx:1" || a.Effective.Image != "nginx:1@"+sha(1) || a.Effective.Sidecars["log"].Image != "log:1@"+sha(2) || a.Effective.Init["first"].Image != "nginx:1@"+sha(1) {
			t.Errorf("%+v\n%+v", a.Spec, a.Effective)
		}
		left := 0
		must(s.cache.latest(t.Context()))(t).each(plannedPrefix, "", func(*object) bool { left++; return true })
		if left != 0 {
			t.Errorf("%d plans are kept after the write", left)
		}
	})
}

// A reference that is not touched means what it meant: neither a write of
// something else nor a moved tag rolls an app, and no registry is asked.
func TestAnUnchangedReferenceKeepsItsDigest(t *testing.T) {
	onShelf(t, map[string]string{"nginx:1": sha(1), "nginx:2": sha(2)}, func(t *testing.T, s *Server, c *client.Client, r *shelf) {
		was := writeApp(t, c, `{"image":"nginx:1"}`)
		r.moves("nginx:1", sha(9))
		r.log()
		is := writeApp(t, c, `{"image":"nginx:1","replicas":3}`)
		if was.Effective.Revision(nil, time.Time{}) != is.Effective.Revision(nil, time.Time{}) || is.Meta.Generation != 2 {
			t.Errorf("%+v", is.Effective)
		}
		if is = writeApp(t, c, `{"image":"nginx:1","env":{"A":"b"}}`); is.Effective.Image != "nginx:1@"+sha(1) {
			t.Errorf("another part of the template changed: %s", is.Effective.Image)
		}
		if p := planOf(t, c, `{"image":"nginx:1","replicas":5}`); len(p.Warnings) > 0 || p.Images["nginx:1"] != sha(1) {
			t.Errorf("%+v", p)
		}
		if asked := r.log(); asked != "" {
			t.Errorf("registries were asked: %s", asked)
		}
		if is = writeApp(t, c, `{"image":"nginx:2"}`); is.Effective.Image != "nginx:2@"+sha(2) {
			t.Errorf("%s", is.Effective.Image)
		}
		if is = writeApp(t, c, `{"image":"nginx:1"}`); is.Effective.Image != "nginx:1@"+sha(9) {
			t.Errorf("a reference that comes back means what it means then: %s", is.Effective.Image)
		}
		if is = writeApp(t, c, `{"image":"nginx:1","pull":"always"}`); is.Effective.Image != "nginx:1" {
			t.Errorf("what is fetched anew each time has no digest: %s", is.Effective.Image)
		}
	})
}

// An image that nobody can tell the digest of goes without, and the plan says
// so at its attribute. It gets one when the pods are replaced anyway, not before.
func TestAnImageNobodyKnowsGoesWithout(t *testing.T) {
	onShelf(t, map[string]string{"nginx:1": sha(1)}, func(t *testing.T, s *Server, c *client.Client, r *shelf) {
		p := planOf(t, c, `{"image":"nginx:1","sidecars":{"log":{"image":"log:1"}}}`)
		if len(p.Errors) > 0 || len(p.Warnings) != 1 || p.Warnings[0].Path != "spec.sidecars.log.image" || !strings.Contains(p.Warnings[0].Message, "has no such image") {
			t.Errorf("%+v", p)
		}
		a := writeApp(t, c, `{"image":"nginx:1","sidecars":{"log":{"image":"log:1"}}}`)
		if a.Effective.Image != "nginx:1@"+sha(1) || a.Effective.Sidecars["log"].Image != "log:1" {
			t.Errorf("%+v", a.Effective)
		}
		r.moves("log:1", sha(2))
		a = writeApp(t, c, `{"image":"nginx:1","replicas":2,"sidecars":{"log":{"image":"log:1"}}}`)
		if a.Effective.Sidecars["log"].Image != "log:1" {
			t.Error("scaling it rolls it")
		}
		a = writeApp(t, c, `{"image":"nginx:1","replicas":2,"env":{"A":"b"},"sidecars":{"log":{"image":"log:1"}}}`)
		if a.Effective.Sidecars["log"].Image != "log:1@"+sha(2) {
			t.Errorf("%+v", a.Effective)
		}
	})
}

// What was loaded by hand is what its name means, and no registry is asked.
func TestAnImageLoadedByHandHasItsDigest(t *testing.T) {
	onShelf(t, map[string]string{"team/web:2": sha(8)}, func(t *testing.T, s *Server, c *client.Client, r *shelf) {
		img := &api.Image{Meta: api.Meta{Name: api.ImageName("docker.io/team/web:2")}, Spec: api.ImageSpec{Reference: "docker.io/team/web:2", Digest: sha(7), Nodes: []string{"w1"}}}
		must(client.Of(c, api.Images).Create(t.Context(), img))(t)
		if a := writeApp(t, c, `{"image":"team/web:2"}`); a.Effective.Image != "team/web:2@"+sha(7) || r.log() != "" {
			t.Errorf("%s", a.Effective.Image)
		}
		if a := writeApp(t, c, `{"image":"other","pull":"never"}`); a.Effective.Image != "other" || r.log() != "" {
			t.Errorf("%s", a.Effective.Image)
		}
	})
}

// The namespace's credentials are shown to the registry, and to nobody else.
func TestRegistriesAreAskedWithPullAuth(t *testing.T) {
	onShelf(t, map[string]string{"r.example/web:1": sha(1)}, func(t *testing.T, s *Server, c *client.Client, r *shelf) {
		p := planOf(t, c, `{"image":"r.example/web:1","pull_auth":"hub"}`)
		if len(p.Warnings) != 2 || !strings.Contains(p.Warnings[0].Message, "secret hub, its pull_auth, does not exist") || p.Warnings[1].Summary != "Secret hub does not exist yet" || r.log() != "" {
			t.Errorf("without its secret: %+v", p)
		}
		must(client.Of(c, api.Secrets).Create(t.Context(), &api.Secret{Meta: api.Meta{Name: "hub", Namespace: "default"},
			Spec: api.SecretSpec{Data: map[string]string{"username": "ada", "password": "sesame"}}}))(t)
		a := writeApp(t, c, `{"image":"r.example/web:1","pull_auth":"hub"}`)
		if asked := r.log(); asked != "r.example/web:1 ada sesame" || a.Effective.Image != "r.example/web:1@"+sha(1) {
			t.Errorf("asked %q, %s", asked, a.Effective.Image)
		}
		p = planOf(t, c, `{"image":"r.example/web:2","pull_auth":"hub"}`)
		if text := string(marshal(p)); strings.Contains(text, "sesame") || len(p.Warnings) != 1 {
			t.Error(text)
		}
	})
}

// What is put back runs what it ran, though its tag has moved since.
func TestARolloutThatIsPutBackHasItsDigest(t *testing.T) {
	onShelf(t, map[string]string{"nginx:1": sha(1), "nginx:2": sha(2)}, func(t *testing.T, s *Server, c *client.Client, r *shelf) {
		a := writeApp(t, c, `{"image":"nginx:1"}`)
		a.Status.Rollout = api.Rollout{Number: 4, Generation: 1, Images: api.DigestsOf(a.Spec.Template(), a.Effective.Template())}
		must(client.Of(c, api.Apps).PutStatus(t.Context(), a))(t)
		writeApp(t, c, `{"image":"nginx:2"}`)
		r.moves("nginx:1", sha(9))
		back := func(rollout int64) error {
			body := marshal(client.Declared{Kind: "App", Meta: api.Meta{Name: "web", Namespace: "default"}, Spec: json.RawMessage(`{"image":"nginx:1"}`)})
			return c.Call(t.Context(), http.MethodPost, "/v1/batch", nil, api.Batch{Writes: []api.BatchWrite{{Put: body, Rollout: rollout}}}, nil)
		}
		if err := back(4); err != nil {
			t.Fatal(err)
		}
		a = must(client.Of(c, api.Apps).Get(t.Context(), "default", "web"))(t)
		if a.Effective.Image != "nginx:1@"+sha(1) || a.Meta.Generation != 3 {
			t.Errorf("%s at generation %d", a.Effective.Image, a.Meta.Generation)
		}
		if err := back(4); err != nil {
			t.Fatal(err)
		}
		if a = must(client.Of(c, api.Apps).Get(t.Context(), "default", "web"))(t); a.Meta.Generation != 3 {
			t.Errorf("what is there already became generation %d", a.Meta.Generation)
		}
		wantCode(t, back(5), api.Precondition)
	})
}

// A write that asks for its images anew gets what their tags mean now, and is no
// write where that is what they meant; nothing is given up for what nobody knows.
func TestImagesAreFoundAnew(t *testing.T) {
	onShelf(t, map[string]string{"nginx:1": sha(1), "log:1": sha(2)}, func(t *testing.T, s *Server, c *client.Client, r *shelf) {
		const spec = `{"image":"nginx:1","sidecars":{"log":{"image":"log:1"}}}`
		writeApp(t, c, spec)
		anew := func() (*api.App, error) {
			was := must(client.Of(c, api.Apps).Get(t.Context(), "default", "web"))(t)
			d := &client.Declared{Meta: api.Meta{Namespace: "default", Name: "web"}, Spec: json.RawMessage(spec)}
			return client.Of(c, api.Apps).FindImages(t.Context(), d, was.Meta.Generation)
		}
		if a := must(anew())(t); a.Meta.Generation != 1 {
			t.Errorf("the same images are generation %d", a.Meta.Generation)
		}
		r.moves("nginx:1", sha(9))
		if a := must(anew())(t); a.Meta.Generation != 2 || a.Effective.Image != "nginx:1@"+sha(9) || a.Effective.Sidecars["log"].Image != "log:1@"+sha(2) {
			t.Errorf("generation %d runs %+v", a.Meta.Generation, a.Effective)
		}
		r.moves("log:1", "")
		_, err := anew()
		wantCode(t, err, api.Precondition)
		if !strings.Contains(err.Error(), "cannot tell what image log:1 is now: the registry has no such image") {
			t.Error(err)
		}
		if a := must(client.Of(c, api.Apps).Get(t.Context(), "default", "web"))(t); a.Meta.Generation != 2 || a.Effective.Sidecars["log"].Image != "log:1@"+sha(2) {
			t.Errorf("generation %d runs %+v", a.Meta.Generation, a.Effective)
		}
	})
}

// Plans that no write came for are forgotten after a day, and the oldest of
// too many before.
func TestPlansAreForgotten(t *testing.T) {
	onShelf(t, map[string]string{"nginx:1": sha(1), "nginx:2": sha(2)}, func(t *testing.T, s *Server, c *client.Client, r *shelf) {
		planOf(t, c, `{"image":"nginx:1"}`)
		r.moves("nginx:1", sha(9))
		time.Sleep(plannedKept + time.Minute)
		if a := writeApp(t, c, `{"image":"nginx:1"}`); a.Effective.Image != "nginx:1@"+sha(9) {
			t.Errorf("a day later: %s", a.Effective.Image)
		}
		count := func() (n int) {
			must(s.cache.latest(t.Context()))(t).each(plannedPrefix, "", func(*object) bool { n++; return true })
			return n
		}
		plan := func(name string) {
			t.Helper()
			path := client.Path(api.Apps.Info(), "default", name) + "/plan"
			if err := c.Call(t.Context(), http.MethodPost, path, nil, json.RawMessage(`{"spec":{"image":"nginx:2"}}`), &api.WritePlan{}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 70 {
			plan(fmt.Sprintf("a%d", i))
		}
		if n := count(); n != 70 {
			t.Fatalf("%d plans are kept", n)
		}
		time.Sleep(plannedKept + time.Minute)
		for i := range 64 {
			plan(fmt.Sprintf("b%d", i))
		}
		if n := count(); n != 64 {
			t.Errorf("%d plans are kept of 64 of today", n)
		}
	})
}

// A registry that does not answer holds a write up for a moment, not more, and
// a batch no longer than one write.
func TestASilentRegistryHoldsNoWriteUp(t *testing.T) {
	bubble(t, func(t *testing.T, s *Server, c *client.Client) {
		s.cfg.Registry = silence{}
		var b api.Batch
		for i := range 40 {
			b.Writes = append(b.Writes, api.BatchWrite{Create: marshal(client.Declared{Kind: "App", Meta: api.Meta{Name: fmt.Sprintf("web%d", i), Namespace: "default"},
				Spec: json.RawMessage(fmt.Sprintf(`{"image":"r%d.example/web:1"}`, i))})})
		}
		began := time.Now()
		if err := c.Call(t.Context(), http.MethodPost, "/v1/batch", nil, b, nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > digestWait+100*time.Millisecond {
			t.Errorf("it took %s", took)
		}
	})
}

// silence is a Registry that never answers.
type silence struct{}

func (silence) Digest(ctx context.Context, _, _, _ string) (string, error) {
	<-ctx.Done()
	return "", ctx.Err()
}
