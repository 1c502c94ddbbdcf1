package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-log/tflog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// revertTimeout bounds the wait for the old declaration after a rollback was
// decided: only then the next plan shows the change again.
const revertTimeout = 30 * time.Second

type appResource = kindResource[*api.App]

// followRollout waits until the rollout of the app's generation has ended.
func followRollout(ctx context.Context, r *appResource, written *api.App) *failure {
	generation, last, said := written.Meta.Generation, written, ""
	gone := false
	err := r.watch(ctx, written, func(now *api.App) bool {
		if gone = now == nil || now.Meta.UID != written.Meta.UID || now.Meta.Deleting(); gone {
			return true
		}
		last = now
		if s := progress(now); s != said {
			tflog.Info(ctx, "app "+id(&now.Meta)+": "+s)
			said = s
		}
		ended, _ := outcome(now, generation)
		return ended
	})
	app := "App " + id(&written.Meta)
	switch {
	case gone:
		return &failure{summary: app + ": deleted while it was rolled out",
			detail: "Somebody asked for its deletion outside of this apply. Plan again to see where it stands."}
	case errors.Is(err, context.DeadlineExceeded):
		return &failure{summary: app + ": the rollout has not ended in time",
			detail: "It goes on in the cluster: " + progress(last) + ".\n\n" + "To wait longer, raise timeouts; to give up earlier, lower update.deadline.\n" + lookCloser(&written.Meta)}
	case err != nil:
		return &failure{waits: true, summary: app + ": interrupted",
			detail: "The rollout goes on in the cluster: " + progress(last) + ". The state has what was written.\n\n" + lookCloser(&written.Meta)}
	}
	_, rollout := outcome(last, generation)
	if rollout == nil {
		return &failure{summary: app + ": another change took over",
			detail: fmt.Sprintf("While generation %d was rolled out, %s wrote generation %d at %s. Plan again to see where it stands.", generation, last.Meta.WrittenBy, last.Meta.Generation, stamp(last.Meta.WrittenAt))}
	}
	switch {
	case rollout.Phase == api.RolloutComplete:
		return nil
	case held(rollout):
		return holds(last)
	}
	if rollout.Phase == api.RolloutRolledBack && last.Meta.Generation == generation {
		last = r.untilReverted(ctx, last)
	}
	return explain(last, rollout)
}

// outcome reports whether the rollout of a generation has ended, and how; nil
// when a newer one took over.
func outcome(a *api.App, generation int64) (ended bool, how *api.Rollout) {
	if a.Status.ObservedGeneration < generation {
		return false, nil
	}
	how = a.Status.RolloutOf(generation)
	switch {
	case how == nil:
		return a.Status.ObservedGeneration > generation, nil
	case how.Phase == api.RolloutSuperseded:
		return true, nil
	}
	return how.Phase.Terminal() || held(how), how
}

// held reports whether a canary waits for somebody's word.
func held(r *api.Rollout) bool { return r.Phase == api.RolloutInProgress && !r.HeldSince.IsZero() }

// holds tells of a canary that does: what was written is there, beside what
// was there before.
func holds(a *api.App) *failure {
	return &failure{waits: true, holds: true, summary: "App " + id(&a.Meta) + ": its canary holds",
		detail: capital(a.Status.Message) + ".\n\nThe state has what was written; until then the pods of before go on.\n" + lookCloser(&a.Meta)}
}

// stuck tells of the app's rollout if it goes on, or ended badly and nothing
// was put back: the cluster has what is declared, so a plan without changes
// would hide it.
func stuck(a *api.App) *failure {
	ended, how := outcome(a, a.Meta.Generation)
	switch {
	case ended && how != nil && held(how):
		return holds(a)
	case ended && how != nil && how.Phase == api.RolloutRolledBack && a.Status.Rollout.Generation == how.Generation && a.Status.Rollout.Behind():
		// Its contents, or a restart, are not what is declared: no plan shows that.
		return &failure{summary: "App " + id(&a.Meta) + ": rollout after a " + cmp.Or(how.Reason, "change of its contents") + " failed and " + reverts(a, how),
			detail: strings.Join(how.Cause.Story(), "\n") + "\n\nWhat it used before runs, until its contents change again.\n" + lookCloser(&a.Meta)}
	case !ended:
		return &failure{summary: "App " + id(&a.Meta) + ": its rollout still goes on", detail: "So far: " + progress(a) + ".\n\n" + lookCloser(&a.Meta)}
	case how == nil || how.Phase != api.RolloutPaused && how.Phase != api.RolloutFailed:
		return nil
	}
	return explain(a, how)
}

// untilReverted waits until the spec of before is back.
func (r *kindResource[O]) untilReverted(ctx context.Context, o O) O {
	ctx, cancel := context.WithTimeout(ctx, revertTimeout)
	defer cancel()
	last := o
	err := r.watch(ctx, o, func(now O) bool {
		if now.Absent() {
			return true
		}
		last = now
		return now.GetMeta().Generation > o.GetMeta().Generation
	})
	if err != nil {
		tflog.Warn(ctx, "the spec of before is not back yet", map[string]any{"ref": o.Ref().String()})
	}
	return last
}

// progress says where an app stands, in a line.
func progress(a *api.App) string {
	s := fmt.Sprintf("%s, %d updated", ready(a), a.Status.Updated)
	if a.Status.Message != "" {
		s += " (" + a.Status.Message + ")"
	}
	return s
}

// ready says how many pods are: with those of a surge, more than there are to be.
func ready(a *api.App) string {
	want := api.Desired(a)
	if extra := a.Status.Ready - want; extra > 0 {
		return fmt.Sprintf("%d of %d pods ready and %d more", want, want, extra)
	}
	return fmt.Sprintf("%d of %d pods ready", a.Status.Ready, want)
}

// explain tells how a rollout ended that did not complete: what failed, what
// runs now, the cause with its evidence, and what to do.
func explain(a *api.App, failed *api.Rollout) *failure {
	f := &failure{reverted: failed.Phase == api.RolloutRolledBack}
	what := fmt.Sprintf("App %s: rollout of %s ", id(&a.Meta), cmp.Or(failed.Image, a.Spec.Image))
	var b strings.Builder
	next := "Correct the configuration and apply again."
	switch failed.Phase {
	case api.RolloutRolledBack:
		f.summary = what + "failed and " + reverts(a, failed)
		if a.Spec.Image != failed.Image {
			f.summary += " to " + a.Spec.Image
		}
		next = "Correct the configuration and apply again: until then each plan shows this change."
	case api.RolloutPaused:
		f.summary = what + "failed and is paused"
		next = "Correct the configuration and apply again: update.on_failure = \"pause\" keeps what is there until then."
	default:
		f.summary = what + "failed"
		if failed.Generation == 1 {
			next = "The app and its logs stay. Correct the configuration and apply again: the next plan replaces it."
		}
	}
	if c := failed.Cause; c != nil {
		b.WriteString(strings.Join(c.Story(), "\n") + "\n")
	} else {
		b.WriteString("The cluster recorded no cause.\n")
	}
	now := ready(a)
	if r := a.Status.Rollout; f.reverted && r.IsRollback() && !r.Phase.Terminal() && a.Status.Updated < a.Status.Ready {
		now += fmt.Sprintf(", %d of them what was before: the others follow", a.Status.Updated)
	}
	fmt.Fprintf(&b, "\nNow: %s, %s.\n%s\n%s", a.Spec.Image, now, next, lookCloser(&a.Meta))
	f.detail = b.String()
	return f
}

// reverts says how far what was before is back: an apply does not wait for all of it.
func reverts(a *api.App, failed *api.Rollout) string {
	r := a.Status.Rollout
	decided := r.Phase == api.RolloutRolledBack && r.Generation == failed.Generation
	if decided || r.IsRollback() && !r.Phase.Terminal() {
		return "is being rolled back"
	}
	return "was rolled back"
}

func lookCloser(m *api.Meta) string {
	return fmt.Sprintf("More:\n  clusterd describe app %s -n %s\n  clusterd logs app/%s -n %s", m.Name, m.Namespace, m.Name, m.Namespace)
}
