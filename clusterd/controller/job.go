package controller

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/reconcile"
)

// jobPlan is what to do next for one job. It is carried out in one transaction
// that demands that the job is exactly what the plan was made from, its status
// too: a tick is decided once, whoever leads and however old their view is.
type jobPlan struct {
	create   []*api.Pod
	remove   []removal
	finalize []*api.Pod // nothing of them is left on a node, nor wanted of their logs

	status api.JobStatus
	finish bool // the job itself goes
	events []api.Event
	again  time.Duration
}

// Most pods that one plan creates, and stops or removes: it must fit into one
// transaction. What is left over is planned again at once.
const (
	mostCreated = 100
	mostRemoved = 100
)

func (p jobPlan) String() string {
	var b strings.Builder
	for _, pod := range p.finalize {
		fmt.Fprintf(&b, "x %s %s\n", pod.Meta.Name, cmp.Or(pod.Status.Phase, api.PhasePending))
	}
	for _, r := range p.remove {
		fmt.Fprintf(&b, "- %s %s\n", r.pod.Meta.Name, r.why)
	}
	for _, pod := range p.create {
		fmt.Fprintf(&b, "+ %s %s\n", pod.Meta.Name, api.ShortImage(pod.Spec.Image))
	}
	if p.finish {
		b.WriteString("x the job\n")
	}
	for _, r := range p.status.Runs {
		fmt.Fprintf(&b, "= %s %s", r.Name, r.Phase)
		if r.Phase != api.RunSkipped {
			fmt.Fprintf(&b, " succeeded=%d failed=%d active=%d", r.Succeeded, r.Failed, r.Active)
		} else if r.Ticks > 1 {
			fmt.Fprintf(&b, " ticks=%d", r.Ticks)
		}
		if r.Reason != "" {
			fmt.Fprintf(&b, " (%s: %s)", r.Reason, r.Message)
		}
		b.WriteByte('\n')
	}
	if !p.status.Next.IsZero() {
		fmt.Fprintf(&b, "next %s\n", p.status.Next.Format(time.RFC3339))
	}
	if p.status.Message != "" {
		fmt.Fprintf(&b, "= %s\n", p.status.Message)
	}
	if p.again > 0 {
		fmt.Fprintf(&b, "again %s\n", p.again)
	}
	return b.String()
}

// sooner asks for another run after d, if positive.
func (p *jobPlan) sooner(d time.Duration) { p.again = sooner(p.again, d) }

func (p *jobPlan) event(warning bool, reason, format string, args ...any) {
	p.events = append(p.events, api.Event{Warning: warning, Reason: reason, Message: fmt.Sprintf(format, args...), By: "job"})
}

// planJob decides without doing: it has no context, no clock and no client. A
// nil job is one that is gone; its pods follow. First it looks at how far the
// runs are, then at which are to begin (tick.go), then at what pods they need
// (run.go), and last at which of the history may go.
func planJob(job *api.Job, see facts) (p jobPlan) {
	if job == nil || job.Meta.Deleting() {
		p.end(job, see.pods)
		return p
	}
	p.status = api.Clone(job.Status)
	p.status.ObservedGeneration = job.Meta.Generation
	j := &jobWork{jobPlan: &p, job: job, s: job.Effective, of: map[string][]*api.Pod{}, see: see, now: see.now}
	for _, pod := range see.pods {
		j.of[pod.Spec.Run] = append(j.of[pod.Spec.Run], pod)
	}
	for i := range p.status.Runs {
		j.count(&p.status.Runs[i])
	}
	j.begin()
	for i := range p.status.Runs {
		j.step(&p.status.Runs[i])
	}
	j.forget()
	p.status.Message = j.message()
	p.create = p.create[:min(len(p.create), mostCreated)]
	p.remove = p.remove[:min(len(p.remove), mostRemoved)]
	p.finalize = p.finalize[:min(len(p.finalize), mostRemoved-len(p.remove))]
	return p
}

// end stops all pods of a job that is to go, and then lets it go.
func (p *jobPlan) end(job *api.Job, pods []*api.Pod) {
	for _, pod := range pods {
		switch {
		case over(pod):
			p.finalize = append(p.finalize, pod)
		case !pod.Meta.Deleting():
			p.remove = append(p.remove, removal{pod, "the job is deleted"})
		}
	}
	p.remove = p.remove[:min(len(p.remove), mostRemoved)]
	p.finalize = p.finalize[:min(len(p.finalize), mostRemoved-len(p.remove))]
	if job == nil {
		return
	}
	p.status = job.Status
	if len(pods) == 0 {
		p.finish = true
		return
	}
	p.status.Next, p.status.Message = time.Time{}, fmt.Sprintf("being deleted: waits for %s to end", names(pods))
}

// jobs is the loop that runs jobs.
type jobs struct {
	client *client.Client
	jobs   *client.Kind[*api.Job]
	caches *reconcile.Caches
	now    func() time.Time
	log    hclog.Logger

	wroteJob, wrotePods reconcile.Written
}

func newJobs(cfg Config) *jobs {
	l := &jobs{client: cfg.Client, jobs: client.Of(cfg.Client, api.Jobs), caches: cfg.Caches, now: cfg.Now, log: cfg.Log.Named("job")}
	if l.now == nil {
		l.now = api.Now
	}
	return l
}

func (l *jobs) loop() reconcile.Loop {
	return reconcile.Loop{
		Name:    "job",
		Workers: 2,
		Watch: []reconcile.Source{
			l.caches.Jobs.Each(),
			l.caches.Pods.Refs(func(p *api.Pod) []api.Ref {
				if p.Spec.Job == "" {
					return nil
				}
				return []api.Ref{api.Jobs.Ref(p.Meta.Namespace, p.Spec.Job)}
			}),
			l.caches.Nodes.Refs(func(n *api.Node) (refs []api.Ref) {
				for _, pod := range l.caches.Pods.By("node", "", n.Meta.Name) {
					if pod.Spec.Job != "" && !pod.Status.Phase.Ended() {
						refs = append(refs, api.Jobs.Ref(pod.Meta.Namespace, pod.Spec.Job))
					}
				}
				return refs
			}),
		},
		Reconcile: l.reconcile,
	}
}

func (l *jobs) reconcile(ctx context.Context, ref api.Ref) (time.Duration, error) {
	if err := cmp.Or(l.caches.Jobs.Await(ctx, l.wroteJob.Of(ref)), l.caches.Pods.Await(ctx, l.wrotePods.Of(ref))); err != nil {
		return 0, err
	}
	job := l.caches.Jobs.Get(ref.Namespace, ref.Name)
	pods := l.caches.Pods.By("job", ref.Namespace, ref.Name)
	if job == nil {
		if len(pods) == 0 {
			l.wroteJob.Forget(ref)
			l.wrotePods.Forget(ref)
			return 0, nil
		}
		if err := absent(ctx, l.jobs, ref.Namespace, ref.Name); err != nil {
			return 0, err
		}
	}
	p := planJob(job, look(l.caches, ref.Namespace, pods, l.now()))
	err := l.apply(ctx, ref, job, p)
	if why := anyOf(refused(err)); why != "" && job != nil {
		p.create, p.status.Message = nil, api.WaitsForQuota+why
		p.sooner(quotaRecheck)
		err = l.apply(ctx, ref, job, p)
	}
	return p.again, err
}

// apply carries a plan out in one transaction.
func (l *jobs) apply(ctx context.Context, ref api.Ref, job *api.Job, p jobPlan) error {
	var demand []api.BatchPrecondition
	if job != nil {
		demand = []api.BatchPrecondition{{Ref: ref, UID: job.Meta.UID, Revision: job.Meta.Revision}}
	}
	ops := p.ops(ref, job)
	if len(ops) == 0 {
		return nil
	}
	if l.log.IsDebug() {
		l.log.Debug("plan", "ref", ref, "plan", p.String())
	}
	err := batches(ctx, l.client, demand, ops, func(wrote api.Ref, revision int64) {
		if wrote.Kind == api.Pods.Name {
			l.wrotePods.Note(ref, revision)
		} else {
			l.wroteJob.Note(ref, revision)
		}
	})
	if err != nil {
		return err
	}
	record(ctx, l.client, l.log, ref, p.events)
	return nil
}

// ops are the writes of a plan.
func (p jobPlan) ops(ref api.Ref, job *api.Job) (ops []write) {
	ops = departures(p.finalize, p.remove)
	for _, pod := range p.create {
		ops = append(ops, create(api.Pods, pod))
	}
	switch {
	case job == nil:
	case p.finish:
		ops = append(ops, remove(ref, job.Meta.UID, true))
	case !reflect.DeepEqual(p.status, job.Status):
		o := *job
		o.Status = p.status
		ops = append(ops, status(api.Jobs, &o))
	}
	return ops
}
