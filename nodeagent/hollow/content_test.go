package hollow_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// TestSecretReachesItsPod: a container has its variables from a secret and a
// config, what it prints of the secret is not in the cause that its crash makes,
// and it starts again without the control plane, after a restart of the agent too.
func TestSecretReachesItsPod(t *testing.T) {
	run(t, func(c *cluster) {
		const value = "hunter2-swordfish"
		secret := must(client.Of(c.client, api.Secrets).Create(c.Context(), &api.Secret{
			Meta: api.Meta{Namespace: "default", Name: "db"}, Spec: api.SecretSpec{Data: map[string]string{"url": value}},
		}))
		config := must(client.Of(c.client, api.Configs).Create(c.Context(), &api.Config{
			Meta: api.Meta{Namespace: "default", Name: "web"}, Spec: api.ConfigSpec{Data: map[string]string{"level": "debugging"}},
		}))
		c.create("web-1", func(s *api.PodSpec) {
			s.Image, s.Args = "toolbox", []string{"env=URL", "env=LEVEL", "wait=5s", "exit=3"}
			s.Secrets, s.Configs = map[string]string{"URL": "db/url"}, map[string]string{"LEVEL": "web/level"}
			s.Contents = map[string]string{"secret/db": secret.Spec.Hash, "config/web": api.ConfigHash("config/web", config.Spec.Data)}
		})
		c.after(30 * time.Second)
		fatal := c.get("web-1").Status.Fatal
		if fatal == nil || fatal.Reason != "crash_loop" {
			t.Fatalf("three exits make no cause: %+v", c.get("web-1").Status)
		}
		if log := strings.Join(fatal.Log, "\n"); !strings.Contains(log, "(secret)") || !strings.Contains(log, "debugging") || strings.Contains(log, value) {
			t.Errorf("the cause shows:\n%s", log)
		}
		if all := fmt.Sprint(c.get("web-1")); strings.Contains(all, value) {
			t.Errorf("the pod shows the value: %s", all)
		}
		c.create("web-2", func(s *api.PodSpec) {
			s.Image, s.Args = "toolbox", []string{"env=URL", "on-term=0", "forever"}
			s.Secrets, s.Contents = map[string]string{"URL": "db/url"}, map[string]string{"secret/db": secret.Spec.Hash}
		})
		c.after(5 * time.Second)
		c.cut.Store(true)
		c.stop()
		c.rt.Crash(c.mainID("web-2"), 1) // while nobody looks
		c.start()
		c.after(15 * time.Second)
		if got := c.containers(); !strings.Contains(got, "main.1=running") {
			t.Errorf("without the control plane it did not start again: %s", got)
		}
	})
}

// TestKeyThatIsNotThere: a version without the key will never have it.
func TestKeyThatIsNotThere(t *testing.T) {
	run(t, func(c *cluster) {
		secret := must(client.Of(c.client, api.Secrets).Create(c.Context(), &api.Secret{
			Meta: api.Meta{Namespace: "default", Name: "db"}, Spec: api.SecretSpec{Data: map[string]string{"url": "hunter2-swordfish"}},
		}))
		c.create("web-1", func(s *api.PodSpec) {
			s.Secrets, s.Contents = map[string]string{"URL": "db/user"}, map[string]string{"secret/db": secret.Spec.Hash}
		})
		c.after(5 * time.Second)
		if f := c.get("web-1").Status.Fatal; f == nil || f.Reason != "cannot_start" || !strings.Contains(f.Message, "secret db has no key user") {
			t.Errorf("a key that is not there: %+v", c.get("web-1").Status)
		}
	})
}

// TestPullAuth: an image that is not for everybody comes to the pod whose
// secret the registry accepts, and stays closed to the one beside it.
func TestPullAuth(t *testing.T) {
	run(t, func(c *cluster) {
		secret := must(client.Of(c.client, api.Secrets).Create(c.Context(), &api.Secret{
			Meta: api.Meta{Namespace: "default", Name: "registry"},
			Spec: api.SecretSpec{Data: map[string]string{"username": "shop", "password": "sesame"}},
		}))
		c.create("web-1", func(s *api.PodSpec) {
			s.Image, s.PullAuth = "private", "registry"
			s.Contents = map[string]string{"secret/registry": secret.Spec.Hash}
		})
		c.after(5 * time.Second)
		if p := c.get("web-1"); p.Status.Phase != api.PhaseRunning {
			t.Fatalf("with credentials: %+v", p.Status)
		}
		c.create("web-2", func(s *api.PodSpec) { s.Image = "private" })
		c.after(15 * time.Second)
		f := c.get("web-2").Status.Fatal
		if f == nil || f.Reason != "pull_refused" || !strings.Contains(f.Message, "pull_auth") {
			t.Errorf("without: %+v", c.get("web-2").Status)
		}
	})
}
