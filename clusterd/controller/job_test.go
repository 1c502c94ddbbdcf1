package controller

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// givenRun describes a run: times in seconds before noon.
type givenRun struct {
	Name       string
	Tick       *float64
	Phase      api.RunPhase
	Reason     string
	Started    float64
	Ended      *float64
	Generation int64
	Active     int
	FailedPods []string
	RetryIn    float64
}

type givenJob struct {
	Spec       json.RawMessage
	Generation int64
	Written    float64
	Ticked     *float64 // none: the schedule was not looked at
	Revision   string   // current: that of the spec
	Intent     string
	Runs       []givenRun
	Deleting   bool
	Pods       []givenPod         // of is the run
	Drains     map[string]float64 // nodes, since
}

func (g givenJob) build() (*api.Job, []*api.Pod) {
	job := &api.Job{Kind: "Job", Meta: api.Meta{Name: "mend", Namespace: "default", UID: "uid-mend", Generation: max(g.Generation, 1), CreatedAt: ago(g.Written), WrittenAt: ago(g.Written)}}
	if err := json.Unmarshal(g.Spec, &job.Spec); err != nil {
		panic(err)
	}
	if err := job.Spec.Validate(); err != nil {
		panic(err)
	}
	job.Effective = api.Clone(job.Spec).WithDefaults()
	st := &job.Status
	st.Intent.Run, st.Revision = g.Intent, g.Revision
	if g.Revision == "current" {
		st.Revision = job.Effective.Revision()
	}
	if g.Ticked != nil {
		st.Schedule, st.Ticked = job.Effective.Schedule+" "+job.Effective.TimeZone, ago(*g.Ticked)
	}
	for _, r := range g.Runs {
		run := api.Run{Name: r.Name, Generation: max(r.Generation, 1), Phase: r.Phase, Reason: r.Reason, StartedAt: ago(r.Started), Active: r.Active, FailedPods: r.FailedPods}
		if r.Tick != nil {
			run.ScheduledFor, run.Until = ago(*r.Tick), ago(*r.Tick)
		}
		if r.Phase == api.RunSkipped {
			run.Ticks = 1
		}
		if r.Ended != nil {
			run.EndedAt = ago(*r.Ended)
		}
		if r.RetryIn > 0 {
			run.RetryAt = ago(-r.RetryIn)
		}
		run.Failed = len(r.FailedPods)
		if run.Failed > 0 {
			run.Cause = &api.Cause{Reason: "exited", Message: "main exited with code 7"}
		}
		st.Runs = append(st.Runs, run)
	}
	if g.Deleting {
		at := ago(5)
		job.Meta.DeletedAt = &at
	}
	var pods []*api.Pod
	for _, p := range g.Pods {
		pod := p.build("", job.Effective.Revision())
		pod.Spec.Job, pod.Spec.Run, pod.Spec.Once = "mend", p.Of, true
		pods = append(pods, pod)
	}
	return job, pods
}

func TestPlanJobGolden(t *testing.T) {
	plans(t, "job", func(t *testing.T, g givenJob) fmt.Stringer {
		job, pods := g.build()
		see := facts{pods: pods, nodes: map[string]*api.Node{}, now: noon}
		for name, since := range g.Drains {
			n := &api.Node{Meta: api.Meta{Name: name, WrittenAt: ago(since)}}
			n.Effective.Drain = &api.Drain{Deadline: "10m"}
			see.nodes[name] = n
		}
		return planJob(job, see)
	})
}

// TestIndexOf reads what pod() writes, also below a name that was cut.
func TestIndexOf(t *testing.T) {
	long := "a-job-with-a-name-that-is-as-long-as-a-name-may-be-and-no-longer"[:63]
	for _, name := range []string{"mend", long} {
		job := &api.Job{Meta: api.Meta{Name: name, Namespace: "default"}, Effective: api.JobSpec{}.WithDefaults()}
		j := &jobWork{jobPlan: &jobPlan{}, job: job, s: job.Effective}
		for _, run := range []string{j.runName("1"), j.tickName(noon), j.runName("abcdefghijklmnopqrst")} {
			pod := j.pod(&api.Run{Name: run}, 999, map[string]bool{run + "-999-0": true})
			if err := api.CheckName(pod.Meta.Name); err != nil || indexOf(pod) != 999 || pod.Spec.Env[api.IndexEnv] != "999" {
				t.Errorf("%s: index %d (%v)", pod.Meta.Name, indexOf(pod), err)
			}
		}
	}
}
