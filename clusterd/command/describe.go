package command

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func (c *cli) describe() *cobra.Command {
	return &cobra.Command{
		Use:   "describe <kind> <name>",
		Short: "Tell all about one object: what is wanted, what is so, and why",
		Example: `  clusterd describe app web
  clusterd describe pod/web-x7k2pa-1
  clusterd describe node w2`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: c.complete(),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := c.object(cmd, args)
			if err != nil {
				return err
			}
			cl, err := c.to.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			return describe(cmd.Context(), cl, q, plain{c.out})
		},
	}
}

// describe prints the story of one object.
func describe(ctx context.Context, c *client.Client, q query, w io.Writer) error {
	items, _, err := q.list(ctx, c)
	if err != nil {
		return err
	}
	var raw struct{ Spec, Status json.RawMessage }
	o := q.kind.New()
	if err := cmp.Or(json.Unmarshal(items[0], o), json.Unmarshal(items[0], &raw)); err != nil {
		return fmt.Errorf("decode %s %s: %w", q.kind.Info().Name, q.name, err)
	}
	p := &page{w: w}
	p.head(o)
	if _, ok := o.(*api.Events); !ok { // whose spec is the events below
		p.section("Spec", hcl(raw.Spec))
	}
	switch v := o.(type) {
	case *api.App:
		err = p.app(ctx, c, v)
	case *api.Job:
		err = p.job(ctx, c, v)
	case *api.Pod:
		p.pod(v)
	case *api.Service:
		err = p.service(ctx, c, v)
	case *api.Node:
		err = p.node(ctx, c, v)
	case *api.Namespace:
		p.section("Status", facts("message", v.Status.Message, "waits for", strings.Join(v.Status.Blockers, ", "), "used", used(v.Status.Used)))
	case *api.Events:
		p.section("Events", eventLines(v.Spec.Entries))
	default:
		p.section("Status", hcl(raw.Status))
	}
	if err != nil {
		return err
	}
	switch o.(type) {
	case *api.App, *api.Job, *api.Pod, *api.Service:
		if err := p.wayOut(ctx, c, o.Ref()); err != nil {
			return err
		}
	}
	if _, ok := o.(*api.Events); !ok {
		if err := p.events(ctx, c, o.Ref()); err != nil {
			return err
		}
	}
	return p.err
}

// page is a description as it is written: sections, and the first error.
type page struct {
	w   io.Writer
	err error
}

func (p *page) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// section prints lines below a title, if there are any.
func (p *page) section(title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	p.printf("\n%s\n", title)
	for _, l := range lines {
		p.printf("%s\n", strings.TrimRight("  "+l, " "))
	}
}

func (p *page) head(o api.Any) {
	m := o.GetMeta()
	p.printf("%s\n", o.Ref())
	lines := facts("generation", fmt.Sprint(m.Generation), "created", ago(m.CreatedAt), "labels", pairs(m.Labels))
	if m.WrittenBy != "" {
		lines = append(lines, facts("written", ago(m.WrittenAt)+" by "+m.WrittenBy)...)
	}
	if m.Deleting() {
		lines = append(lines, facts("deleting", "since "+ago(*m.DeletedAt))...)
	}
	for _, l := range lines {
		p.printf("  %s\n", l)
	}
}

func (p *page) app(ctx context.Context, c *client.Client, a *api.App) error {
	s := a.Status
	p.section("Status", facts(
		"ready", fmt.Sprintf("%d of %d", s.Ready, api.Desired(a)),
		"message", s.Message))
	p.section("Images", imageLines(a.Spec.Template(), a.Effective.Template()))
	p.section("Rollout", rolloutLines(s.Rollout))
	if !s.Rollout.Phase.Terminal() || s.Rollout.Cause == nil {
		// The rollout that failed is history once its rollback has begun.
		if i := slices.IndexFunc(s.History, func(r api.Rollout) bool { return r.Cause != nil }); i >= 0 {
			p.section("Last failed rollout", rolloutLines(s.History[i]))
		}
	}
	if len(s.History) > 0 {
		t := table{header: []string{"GENERATION", "REVISION", "PHASE", "ENDED", "IMAGE", "REASON"}}
		for _, r := range s.History {
			t.rows = append(t.rows, []string{fmt.Sprint(r.Generation), r.Revision, string(r.Phase), ago(r.EndedAt), rolledImage(r), r.Reason})
		}
		p.section("History", t.lines())
	}
	return p.pods(ctx, c, a.Meta.Namespace, client.By("app", a.Meta.Name))
}

func (p *page) job(ctx context.Context, c *client.Client, j *api.Job) error {
	s := j.Status
	next := ""
	if !s.Next.IsZero() {
		next = s.Next.Format(time.RFC3339)
	}
	p.section("Status", facts("message", s.Message, "next", next))
	p.section("Images", imageLines(j.Spec.PodTemplate, j.Effective.PodTemplate))
	if len(s.Runs) > 0 {
		t := table{header: []string{"NAME", "PHASE", "SCHEDULED FOR", "STARTED", "ENDED", "SUCCEEDED", "FAILED", "REASON", "MESSAGE"}}
		for _, r := range s.Runs {
			tick := ""
			if !r.ScheduledFor.IsZero() {
				tick = r.ScheduledFor.Format("2006-01-02 15:04 MST")
			}
			if r.Ticks > 1 {
				tick += fmt.Sprintf(" and %d more", r.Ticks-1)
			}
			t.rows = append(t.rows, []string{r.Name, string(r.Phase), tick, ago(r.StartedAt), ago(r.EndedAt), fmt.Sprint(r.Succeeded), fmt.Sprint(r.Failed), r.Reason, r.Message})
		}
		p.section("Runs", t.lines())
	}
	if i := slices.IndexFunc(s.Runs, func(r api.Run) bool { return r.Cause != nil }); i >= 0 {
		p.section("Last failure, of run "+s.Runs[i].Name, s.Runs[i].Cause.Story())
	}
	return p.pods(ctx, c, j.Meta.Namespace, client.By("job", j.Meta.Name))
}

// pods prints the table of the pods that filter finds, and what is wrong with each.
func (p *page) pods(ctx context.Context, c *client.Client, ns string, filter client.Filter) error {
	pods, _, err := client.Of(c, api.Pods).List(ctx, ns, filter)
	if err != nil || len(pods) == 0 {
		return err
	}
	t := table{header: append([]string{"NAME"}, api.Pods.Header(false)...)}
	var notes []string
	for _, o := range pods {
		name := o.Meta.Name
		if ns == "" {
			name = o.Meta.Namespace + "/" + name
		}
		t.rows = append(t.rows, append([]string{name}, api.Pods.Row(o, false)...))
		if o.Status.Ready || o.Status.Phase == api.PhaseSucceeded {
			continue
		}
		if msg := cmp.Or(o.Status.Message, lastExit(o)); msg != "" {
			notes = append(notes, name+": "+msg)
		}
	}
	p.section("Pods", append(t.lines(), notes...))
	return nil
}

// lastExit says how a container of a pod last ended, "" if none did.
func lastExit(o *api.Pod) string {
	for _, name := range containerNames(o.Status.Containers) {
		if e := o.Status.Containers[name].Last; e != nil {
			return "container " + name + " " + exitText(*e)
		}
	}
	return ""
}

func (p *page) pod(o *api.Pod) {
	s := o.Status
	lines := facts(
		"phase", string(s.Phase),
		"ready", fmt.Sprint(s.Ready),
		"node", cmp.Or(o.Spec.Node, "none yet"),
		"ip", s.IP,
		"reason", s.Reason,
		"message", s.Message,
		"started", ago(s.StartedAt),
		"ended", ago(s.EndedAt))
	p.section("Status", lines)
	for _, name := range containerNames(s.Containers) {
		st := s.Containers[name]
		lines := facts(
			"state", st.State,
			"ready", fmt.Sprint(st.Ready),
			"restarts", fmt.Sprint(st.Restarts),
			"started", ago(st.StartedAt),
			"reason", st.Reason,
			"message", st.Message,
			"digest", st.Image)
		if st.PID != 0 && st.State == api.ContainerRunning {
			lines = append(lines, facts("pid", fmt.Sprint(st.PID))...)
		}
		if st.Last != nil {
			lines = append(lines, facts("last exit", exitText(*st.Last))...)
		}
		p.section("Container "+name, lines)
	}
	if s.Fatal != nil {
		p.section("Cannot run", s.Fatal.Story())
	}
}

func (p *page) service(ctx context.Context, c *client.Client, s *api.Service) error {
	p.section("Status", facts(
		"ip", s.Effective.IP,
		"dns", api.ServiceDNSName(s.Meta.Namespace, s.Meta.Name),
		"endpoints", fmt.Sprint(s.Status.Endpoints),
		"message", s.Status.Message))
	slices, _, err := client.Of(c, api.EndpointSlices).List(ctx, s.Meta.Namespace, client.By("service", s.Meta.Name))
	if api.Is(err, api.Denied) {
		return nil // who may read services need not see them
	}
	if err != nil {
		return err
	}
	t := table{header: []string{"POD", "NODE", "IP", "PORTS", "STATE"}}
	for _, slice := range slices {
		for _, e := range slice.Spec.Addresses {
			state := "ready"
			if e.Draining {
				state = "draining"
			}
			ports := map[string]string{}
			for name, n := range e.Ports {
				ports[name] = fmt.Sprint(n)
			}
			t.rows = append(t.rows, []string{e.Pod, e.Node, e.IP, pairs(ports), state})
		}
	}
	if len(t.rows) > 0 {
		p.section("Endpoints", t.lines())
	}
	return nil
}

// used says what a namespace uses of its quota.
func used(u api.Used) string {
	var parts []string
	for _, part := range []struct{ amount, what string }{{string(u.CPU), "cpu"}, {string(u.Memory), "memory"}, {fmt.Sprint(u.Replicas), "pods"}, {fmt.Sprint(u.Volumes), "volumes"}, {string(u.Storage), "storage"}} {
		if part.amount != "" && part.amount != "0" {
			parts = append(parts, part.amount+" "+part.what)
		}
	}
	return strings.Join(parts, ", ")
}

func (p *page) node(ctx context.Context, c *client.Client, n *api.Node) error {
	s := n.Status
	health := cmp.Or(s.Health.Verdict, api.VerdictJoining)
	p.section("Status", facts(
		"health", string(health),
		"since", ago(s.Health.Since),
		"message", s.Health.Message,
		"refuses", n.Spec.Closed(),
		"taints", pairs(n.Spec.Taints),
		"address", s.Address,
		"subnet", n.Effective.Subnet,
		"capacity", resources(s.Capacity),
		"allocatable", resources(s.Allocatable),
		"platform", strings.Trim(s.OS+"/"+s.Arch, "/"),
		"version", s.Version))
	if d := s.Drain; d != nil {
		p.section("Drain", append([]string{d.Summary(), "it began " + ago(d.StartedAt)}, d.Waits...))
	}
	return p.pods(ctx, c, "", client.By("node", n.Meta.Name))
}

// wayOut prints what helps against what the sections before have told.
func (p *page) wayOut(ctx context.Context, c *client.Client, about api.Ref) error {
	x, err := explanation(ctx, c, about)
	if err != nil {
		return err
	}
	var lines []string
	for _, because := range x.Causes {
		if line := fmt.Sprintf("%s (%s): %s", because.Ref, because.Reason, because.WayOut); because.WayOut != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	p.section("Way out", lines)
	return nil
}

func (p *page) events(ctx context.Context, c *client.Client, subject api.Ref) error {
	at := api.EventsOf(subject)
	ring, err := client.Of(c, api.EventRings).Get(ctx, at.Namespace, at.Name)
	if api.Is(err, api.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	p.section("Events", eventLines(ring.Spec.Entries))
	return nil
}

func eventLines(events []api.Event) []string {
	t := table{header: []string{"LAST", "COUNT", "REASON", "BY", "MESSAGE"}}
	for _, e := range events {
		reason := e.Reason
		if e.Warning {
			reason = "! " + reason
		}
		t.rows = append(t.rows, []string{ago(e.Last), fmt.Sprint(max(e.Count, 1)), reason, e.By, e.Message})
	}
	if len(t.rows) == 0 {
		return nil
	}
	return t.lines()
}

// ago renders a time for people, "" when it never was.
func ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return api.Age(t) + " ago"
}
