package controller

import (
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// config writes config web and returns the hash of its version.
func (w *world) config(level string) string {
	w.t.Helper()
	c := &api.Config{Meta: api.Meta{Name: "web", Namespace: w.ns}, Spec: api.ConfigSpec{Data: map[string]string{"level": level}}}
	if _, err := client.Of(w.client, api.Configs).Put(w.ctx, c); err != nil {
		w.t.Fatal(err)
	}
	return api.ConfigHash("config/web", c.Spec.Data)
}

func (w *world) secret(data map[string]string) *api.Secret {
	w.t.Helper()
	s, err := client.Of(w.client, api.Secrets).Put(w.ctx, &api.Secret{Meta: api.Meta{Name: "db", Namespace: w.ns}, Spec: api.SecretSpec{Data: data}})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// settled waits until an app has rolled out a version.
func (w *world) settled(app, of, hash string) {
	w.t.Helper()
	w.eventually(app+" has rolled out "+of+" "+hash, 2*time.Minute, func() bool {
		ro := w.app(app).Status.Rollout
		return ro.Phase == api.RolloutComplete && ro.Contents[of] == hash
	})
}

const reads = `{"image":"good:1","replicas":2,"configs":{"LEVEL":"web/level"},"update":{"healthy_for":"2s"}}`

// TestConfigRollsItsApps: a config that is written anew is rolled out within the
// generation, and nothing else is.
func TestConfigRollsItsApps(t *testing.T) {
	inWorld(t, 2, nil, func(w *world) {
		one := w.config("info")
		generation := w.apply("api", reads)
		w.apply("other", `{"image":"good:1","update":{"healthy_for":"2s"}}`)
		w.settled("api", "config/web", one)
		two := w.config("debug")
		w.settled("api", "config/web", two)
		st := w.app("api").Status
		if st.Rollout.Generation != generation || st.Rollout.Reason != "change of config/web" || st.History[0].Contents["config/web"] != one {
			t.Errorf("the rollout is %+v after %+v", st.Rollout, st.History[0])
		}
		for _, p := range w.pods() {
			if p.Spec.App == "api" && !p.Meta.Deleting() && p.Spec.Contents["config/web"] != two {
				t.Errorf("%s has %v", p.Meta.Name, p.Spec.Contents)
			}
		}
		if other := w.app("other").Status; other.Rollout.Number != 1 {
			t.Errorf("an app that does not use it rolled out %d times", other.Rollout.Number)
		}
	})
}

// TestConfigRollsBackWithItsApp: a version that makes an app fail is taken back
// with it, so that what is declared is what runs; the others follow.
func TestConfigRollsBackWithItsApp(t *testing.T) {
	inWorld(t, 2, nil, func(w *world) {
		one := w.config("info")
		w.apply("api", reads)
		w.apply("batch", strings.Replace(reads, `"replicas":2`, `"replicas":1`, 1))
		w.settled("api", "config/web", one)
		w.settled("batch", "config/web", one)
		w.poison.Store(api.ConfigHash("config/web", map[string]string{"level": "loud"}), true)
		two := w.config("loud")
		w.eventually("the config is put back", time.Minute, func() bool {
			c, err := client.Of(w.client, api.Configs).Get(w.ctx, w.ns, "web")
			return err == nil && c.Spec.Data["level"] == "info"
		})
		w.settled("api", "config/web", one)
		w.settled("batch", "config/web", one)
		time.Sleep(2 * time.Minute)
		c, err := client.Of(w.client, api.Configs).Get(w.ctx, w.ns, "web")
		if err != nil || c.Meta.Generation != 3 || c.Status.Hash != one || !strings.Contains(c.Status.Message, "version "+two+" made app ") || !strings.Contains(c.Status.Message, "exited with code 7") {
			t.Errorf("the config is %+v: %v", c, err)
		}
		failed := 0
		for _, app := range []string{"api", "batch"} {
			st := w.app(app).Status
			if st.Rollout.Phase != api.RolloutComplete || st.Rollout.Contents["config/web"] != one || st.Rollout.Number > 4 {
				t.Errorf("%s is at %+v", app, st.Rollout)
			}
			for _, ro := range st.History {
				if ro.Phase == api.RolloutRolledBack && ro.Contents["config/web"] == two && ro.Cause.Reason == "crash_loop" {
					failed++
				}
			}
		}
		if failed == 0 {
			t.Error("no app's history tells of the failure")
		}
	})
}

// TestSecretRollsBackWithItsApp: likewise, and the loop never sees a value.
func TestSecretRollsBackWithItsApp(t *testing.T) {
	inWorld(t, 1, nil, func(w *world) {
		one := w.secret(map[string]string{"url": "postgres://one"})
		w.apply("api", `{"image":"good:1","secrets":{"URL":"db/url"},"update":{"healthy_for":"2s"}}`)
		w.settled("api", "secret/db", one.Spec.Hash)
		w.apply("idle", `{"image":"good:1","replicas":0,"secrets":{"URL":"db/url"}}`)
		two := w.secret(map[string]string{"url": "postgres://two"})
		w.settled("api", "secret/db", two.Spec.Hash)
		three := w.secret(map[string]string{"url": "postgres://broken"})
		w.poison.Store(three.Spec.Hash, true)
		w.eventually("the secret is put back", time.Minute, func() bool {
			s, err := client.Of(w.client, api.Secrets).Get(w.ctx, w.ns, "db")
			return err == nil && s.Spec.Hash == two.Spec.Hash && s.Meta.Generation == 4
		})
		w.settled("api", "secret/db", two.Spec.Hash)
	})
}

// TestMissingSecret: the rollout fails for certain, in words, without a pod; once
// the secret is written it goes on by itself, and goes on without it later.
func TestMissingSecret(t *testing.T) {
	inWorld(t, 1, nil, func(w *world) {
		generation := w.apply("api", `{"image":"good:1","secrets":{"DATABASE_URL":"db/url"},"update":{"healthy_for":"0s"}}`)
		ro := w.ended("api", generation, contentGrace+5*time.Second)
		if ro.Phase != api.RolloutFailed || ro.Cause.Reason != "missing_secret" || ro.Cause.Message != "secret db does not exist; write it, or correct secrets.DATABASE_URL" {
			t.Fatalf("the rollout is %+v: %+v", ro, ro.Cause)
		}
		if m := w.app("api").Status.Message; !strings.Contains(m, ro.Cause.Message) {
			t.Errorf("the app says %q", m)
		}
		w.secret(map[string]string{"user": "x"})
		time.Sleep(time.Minute)
		if pods := w.pods(); len(pods) > 0 {
			t.Errorf("%d pods without their secret", len(pods))
		}
		hash := w.secret(map[string]string{"url": "postgres://x"}).Spec.Hash
		w.settled("api", "secret/db", hash)
		if err := client.Of(w.client, api.Secrets).Delete(w.ctx, w.ns, "db", ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		if st := w.app("api").Status; st.Rollout.Phase != api.RolloutComplete || st.Ready != 1 {
			t.Errorf("without the secret the app is %+v", st)
		}
		for _, p := range w.pods() {
			if err := client.Of(w.client, api.Pods).Delete(w.ctx, w.ns, p.Meta.Name, ""); err != nil {
				t.Fatal(err)
			}
		}
		w.eventually("the lost pod is replaced, with what the app had", time.Minute, func() bool { return w.readyPods("") == 1 })
	})
}

// TestMissingSecretOfJob: a run says what it lacks, in the same words.
func TestMissingSecretOfJob(t *testing.T) {
	inWorld(t, 1, nil, func(w *world) {
		jobs := client.Of(w.client, api.Jobs)
		job := &api.Job{Meta: api.Meta{Name: "tidy", Namespace: w.ns}}
		job.Spec.Image, job.Spec.Secrets = "good:1", map[string]string{"URL": "db/url"}
		if _, err := jobs.Create(w.ctx, job); err != nil {
			t.Fatal(err)
		}
		w.eventually("the run fails", contentGrace+5*time.Second, func() bool {
			j, err := jobs.Get(w.ctx, w.ns, "tidy")
			return err == nil && len(j.Status.Runs) == 1 && j.Status.Runs[0].Phase == api.RunFailed &&
				j.Status.Runs[0].Cause.Reason == "missing_secret" && j.Status.Runs[0].Cause.Message == "secret db does not exist; write it, or correct secrets.URL"
		})
		if pods := w.pods(); len(pods) > 0 {
			t.Errorf("%d pods without their secret", len(pods))
		}
	})
}
