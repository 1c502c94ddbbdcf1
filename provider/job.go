package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-log/tflog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// newJob returns clusterd_job: every field of api.JobSpec under its own name,
//
//	resource "clusterd_job" "migrate" {
//	  name     = "migrate"
//	  image    = "shop/api:1.4"
//	  command  = ["/api", "migrate"]
//	  triggers = { schema = filesha256("schema.sql") }
//	}
//
// and apply returns once its run has ended, or fails with its cause. A job with
// a schedule has runs of its own time: apply does not wait for them.
func newJob() resource.Resource {
	return &kindResource[*api.Job]{
		kind: api.Jobs,
		options: map[string]schema.Attribute{
			"wait": schema.BoolAttribute{Optional: true,
				MarkdownDescription: "Wait until the run has ended, and fail with its cause if it failed. A job with a `schedule` is not waited for. Default: `true`."},
			"on_create_failure": onCreateFailure("job whose first run failed"),
		},
		check:   checkCreateFailure,
		planned: true,
		needs: map[string][]string{
			"health.http":  {"health.tcp"},
			"health.port":  {"ports"},
			"init.*.image": {"image"},
			"schedule":     {"time_zone"},
			"time_zone":    {"schedule"},
			"concurrency":  {"schedule"},
			"catch_up":     {"schedule"},
			"triggers":     {"schedule"},
		},
		follow:  followRun,
		ails:    lastRunFailed,
		blocked: func(j *api.Job) string { return j.Status.Message },
	}
}

type jobResource = kindResource[*api.Job]

// followRun waits until the run that a change of the job asks for has ended.
func followRun(ctx context.Context, r *jobResource, written *api.Job) *failure {
	if written.Spec.Schedule != "" || api.Deref(written.Spec.Suspend) {
		return nil
	}
	last, said, gone := written, "", false
	err := r.watch(ctx, written, func(now *api.Job) bool {
		if gone = now == nil || now.Meta.UID != written.Meta.UID || now.Meta.Deleting(); gone {
			return true
		}
		last = now
		if s := now.Status.Message; s != said {
			tflog.Info(ctx, "job "+id(&now.Meta)+": "+s)
			said = s
		}
		if now.Meta.Generation > written.Meta.Generation {
			return true
		}
		run := runOfChange(now)
		return run != nil && run.Phase.Ended()
	})
	job := "Job " + id(&written.Meta)
	switch {
	case gone:
		return &failure{summary: job + ": deleted while it ran",
			detail: "Somebody asked for its deletion outside of this apply. Plan again to see where it stands."}
	case errors.Is(err, context.DeadlineExceeded):
		return &failure{summary: job + ": its run has not ended in time",
			detail: "It goes on in the cluster: " + cmp.Or(last.Status.Message, "it has not begun") + ".\n\nTo wait longer, raise timeouts; to have the run end earlier, set deadline.\n" + lookAtJob(&written.Meta)}
	case err != nil:
		return &failure{waits: true, summary: job + ": interrupted",
			detail: "The run goes on in the cluster: " + cmp.Or(last.Status.Message, "it has not begun") + ". The state has what was written.\n\n" + lookAtJob(&written.Meta)}
	case last.Meta.Generation > written.Meta.Generation:
		return &failure{summary: job + ": another change took over",
			detail: fmt.Sprintf("While generation %d ran, %s wrote generation %d at %s. Plan again to see where it stands.", written.Meta.Generation, last.Meta.WrittenBy, last.Meta.Generation, stamp(last.Meta.WrittenAt))}
	}
	return explainRun(last, runOfChange(last))
}

// runOfChange returns the newest run of a job without a schedule, nil while the
// loop has not looked at what is declared.
func runOfChange(j *api.Job) *api.Run {
	if j.Status.ObservedGeneration < j.Meta.Generation {
		return nil
	}
	i := slices.IndexFunc(j.Status.Runs, func(r api.Run) bool { return r.Phase != api.RunSkipped })
	if i < 0 {
		return nil
	}
	return &j.Status.Runs[i]
}

// lastRunFailed tells of a job whose last run failed: the cluster has what is
// declared, so a plan without changes would hide it.
func lastRunFailed(j *api.Job) *failure {
	if run := runOfChange(j); run != nil && run.Phase != api.RunCancelled {
		return explainRun(j, run)
	}
	return nil
}

// explainRun tells how a run ended that did not succeed; nil of any other.
func explainRun(j *api.Job, run *api.Run) *failure {
	job := "Job " + id(&j.Meta)
	if run.Phase == api.RunCancelled {
		return &failure{summary: job + ": run " + run.Name + " was cancelled", detail: sentence(run.Message) + "\n\n" + lookAtJob(&j.Meta)}
	}
	if run.Phase != api.RunFailed {
		return nil
	}
	var b strings.Builder
	if run.Cause != nil {
		b.WriteString(strings.Join(run.Cause.Story(), "\n") + "\n")
	}
	fmt.Fprintf(&b, "\n%d of %d pods succeeded, %d failed, in %s.\n", run.Succeeded, api.Deref(j.Effective.Completions), run.Failed, run.EndedAt.Sub(run.StartedAt).Round(time.Second))
	if j.Spec.Schedule == "" {
		fmt.Fprintf(&b, "The pods and their logs stay. To run it again, correct the configuration or change triggers, and apply; or: clusterd job run %s -n %s\n", j.Meta.Name, j.Meta.Namespace)
	}
	return &failure{summary: job + ": run " + run.Name + " failed", detail: b.String() + lookAtJob(&j.Meta)}
}

func lookAtJob(m *api.Meta) string {
	return fmt.Sprintf("More:\n  clusterd describe job %s -n %s\n  clusterd logs job/%s -n %s", m.Name, m.Namespace, m.Name, m.Namespace)
}
