package controller

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Digests of the registry of a world; a pod of the last one fails.
var (
	goodDigest  = "sha256:" + strings.Repeat("1", 64)
	otherDigest = "sha256:" + strings.Repeat("2", 64)
	badDigest   = "sha256:" + strings.Repeat("b", 64)
)

// tags is the registry of a world: what was pushed has a digest, other images none.
type tags struct{ digests sync.Map }

func (r *tags) push(ref, digest string) { r.digests.Store(ref, digest) }

func (r *tags) Digest(_ context.Context, ref, _, _ string) (string, error) {
	digest, ok := r.digests.Load(ref)
	if !ok {
		return "", errors.New("the registry has no such image")
	}
	return digest.(string), nil
}

// images are the references that the pods of an app have which serve.
func (w *world) images() map[string]int {
	out := map[string]int{}
	for _, p := range w.pods() {
		if p.Status.Ready && !p.Meta.Deleting() {
			out[p.Spec.Image]++
		}
	}
	return out
}

// A rollback puts back the image that ran, though its tag means another by then.
func TestARollbackPutsTheOldDigestBack(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		w.tags.push("good:1", goodDigest)
		w.complete("web", `{"image":"good:1","replicas":3}`)
		was := w.app("web").Status.Rollout
		if was.Image != "good:1" || was.Images["good:1"] != goodDigest || w.images()["good:1@"+goodDigest] != 3 {
			t.Fatalf("%+v, pods %v", was, w.images())
		}
		w.tags.push("good:1", otherDigest)
		g2 := w.apply("web", `{"image":"bad:1","replicas":3}`)
		if ro := w.ended("web", g2, time.Minute); ro.Phase != api.RolloutRolledBack {
			t.Fatalf("%+v", ro)
		}
		back := w.ended("web", g2+1, time.Minute)
		a := w.app("web")
		if back.Phase != api.RolloutComplete || back.Revision != was.Revision || a.Effective.Image != "good:1@"+goodDigest || a.Spec.Image != "good:1" {
			t.Errorf("%+v, %s", back, a.Effective.Image)
		}
		w.eventually("only the image that was", 20*time.Second, func() bool { return w.images()["good:1@"+goodDigest] == 3 && len(w.pods()) == 3 })
	})
}

// A restart and a change of the number of pods keep the image; a declaration
// that went away and comes back means what its tag means then. If that fails,
// the same declaration is put back with the image that it was healthy with.
func TestADeclarationThatComesBackMayBeAnotherImage(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		const spec = `{"image":"good:1","replicas":2}`
		w.tags.push("good:1", goodDigest)
		w.complete("web", spec)
		w.tags.push("good:1", badDigest)
		w.intend("web", func(_ *api.App, i *api.Intent) { i.Restart = w.now() })
		w.eventually("restarted", time.Minute, func() bool {
			ro := w.app("web").Status.Rollout
			return ro.Number == 2 && ro.Phase == api.RolloutComplete
		})
		w.complete("web", `{"image":"good:1","replicas":3}`)
		if w.images()["good:1@"+goodDigest] != 3 {
			t.Fatalf("%v", w.images())
		}
		w.apply("web", `{"image":"never:1","replicas":3}`)
		time.Sleep(2 * time.Second)
		g := w.apply("web", `{"image":"good:1","replicas":3}`)
		if ro := w.ended("web", g, time.Minute); ro.Phase != api.RolloutRolledBack || ro.Images["good:1"] != badDigest {
			t.Fatalf("%+v", ro)
		}
		back := w.ended("web", g+1, time.Minute)
		if a := w.app("web"); back.Phase != api.RolloutComplete || a.Effective.Image != "good:1@"+goodDigest {
			t.Errorf("%+v, %s", back, a.Effective.Image)
		}
		w.eventually("the image that was healthy", 20*time.Second, func() bool { return w.images()["good:1@"+goodDigest] == 3 && len(w.pods()) == 3 })
	})
}
