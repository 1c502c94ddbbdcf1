package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-log/tflog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// followVersion waits until every app that uses a config or secret has rolled
// out its version, or failed to. hash names the version of an object.
func followVersion[O api.Any](hash func(O) string) func(context.Context, *kindResource[O], O) *failure {
	return func(ctx context.Context, r *kindResource[O], written O) *failure {
		meta := written.GetMeta()
		of, version := strings.ToLower(r.kind.Name)+"/"+meta.Name, hash(written)
		apps := &appResource{kind: api.Apps, objects: client.Of(r.cluster.client, api.Apps)}
		all, _, err := apps.objects.List(ctx, meta.Namespace, nil)
		if err != nil {
			return &failure{summary: capital(r.noun(meta)) + ": cannot tell how the apps take it", detail: sentence(err.Error())}
		}
		content, err := client.Of(r.cluster.client, api.Contents).Get(ctx, meta.Namespace, api.ContentName(of, version))
		if err != nil {
			return nil // another version is there already, and its writer follows it
		}
		var holding *failure
		for _, app := range all {
			if !uses(app, of) {
				continue
			}
			if at := lacks(app, of, content.Spec.Keys); at != "" {
				return &failure{summary: fmt.Sprintf("%s: app %s needs a key that it has not any more", capital(r.noun(meta)), id(&app.Meta)),
					detail: fmt.Sprintf("The app goes on with the version of before. Write the key again, or correct %s of the app.", at)}
			}
			fail := r.followIn(ctx, apps, app, written, of, version)
			if fail != nil && fail.holds {
				holding, fail = fail, nil // for somebody's word: the others go on
			}
			if fail != nil {
				if fail.reverted {
					now, err := r.objects.Get(ctx, meta.Namespace, meta.Name)
					fail.reverted = err == nil && hash(now) != version
				}
				return fail
			}
		}
		return holding
	}
}

func uses(a *api.App, of string) bool {
	return slices.ContainsFunc(a.Effective.Template().ContentUses(), func(u api.ContentUse) bool { return u.Of == of })
}

// lacks returns where an app asks for a key that a version has not.
func lacks(a *api.App, of string, keys []string) string {
	for _, u := range a.Effective.Template().ContentUses() {
		if u.Of == of && !slices.Contains(keys, u.Key) {
			return u.At
		}
	}
	return ""
}

// followIn waits for one app.
func (r *kindResource[O]) followIn(ctx context.Context, apps *appResource, app *api.App, written O, of, version string) *failure {
	last, said := app, ""
	err := apps.watch(ctx, app, func(now *api.App) bool {
		if now == nil || now.Meta.UID != app.Meta.UID || now.Meta.Deleting() || !uses(now, of) {
			last = nil
			return true
		}
		last = now
		if s := progress(now); s != said {
			tflog.Info(ctx, "app "+id(&now.Meta)+": "+s)
			said = s
		}
		ended, _ := versionOutcome(now, of, version, written.GetMeta().WrittenAt)
		return ended
	})
	what := capital(r.noun(written.GetMeta()))
	switch {
	case last == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return &failure{summary: fmt.Sprintf("%s: app %s has not rolled it out in time", what, id(&app.Meta)),
			detail: "It goes on in the cluster: " + progress(last) + ".\n\n" + lookCloser(&app.Meta)}
	case err != nil:
		return &failure{waits: true, summary: what + ": interrupted",
			detail: fmt.Sprintf("The rollout of app %s goes on in the cluster: %s.\n\n%s", id(&app.Meta), progress(last), lookCloser(&app.Meta))}
	}
	_, rollout := versionOutcome(last, of, version, written.GetMeta().WrittenAt)
	switch {
	case rollout.Phase == api.RolloutComplete:
		return nil
	case held(rollout):
		return holds(last)
	}
	fail := explain(last, rollout)
	fail.summary = what + ": the change made app " + id(&app.Meta) + " fail"
	if fail.reverted {
		fail.summary += " and " + reverts(last, rollout)
	}
	return fail
}

// versionOutcome reports whether an app has rolled out a version since it was
// written, and how that ended. What the app has had all along is complete.
func versionOutcome(a *api.App, of, version string, since time.Time) (ended bool, how *api.Rollout) {
	for _, ro := range append([]api.Rollout{a.Status.Rollout}, a.Status.History...) {
		if ro.Contents[of] != version || ro.Phase == api.RolloutSuperseded {
			continue
		}
		if !ro.StartedAt.Before(since) {
			return ro.Phase.Terminal() || held(&ro), &ro
		}
	}
	if ro := a.Status.Rollout; ro.Contents[of] == version && ro.Phase == api.RolloutComplete {
		return true, &ro
	}
	return false, nil
}
