package api

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// nothingAround has neither nodes nor volumes.
var nothingAround = Around{func(string) *Node { return nil }, func(string, string) *Volume { return nil }}

// TestExplainAround: what is not a pod's own fault is a cause of its own, about
// the object whose it is, with a way out.
func TestExplainAround(t *testing.T) {
	held := &App{Meta: Meta{Name: "web", Namespace: "shop"}, Status: AppStatus{Message: "canary of 1 is healthy", Rollout: Rollout{Phase: RolloutInProgress, HeldSince: time.Unix(1, 0)}}}
	per := &App{Meta: Meta{Name: "web", Namespace: "shop"}, Status: AppStatus{Message: WaitsForQuota + "no cpu left"}}
	fine := &App{Meta: Meta{Name: "web", Namespace: "shop"}}
	job := &Job{Meta: Meta{Name: "report", Namespace: "shop"}, Status: JobStatus{Message: WaitsForQuota + "no cpu left", Runs: []Run{{Name: "1", Phase: RunRunning}}}}
	failed := &Job{Status: JobStatus{Runs: []Run{{Name: "3", Phase: RunSkipped}, {Name: "2", Phase: RunFailed, Message: "too often", Cause: &Cause{Reason: "exited", Message: "main exited with code 1", Pod: "p"}}}}}
	onDrained := &Pod{Meta: Meta{Name: "web-1", Namespace: "shop"}, Spec: PodSpec{Node: "w1"}, Status: PodStatus{Ready: true, Phase: PhaseRunning}}
	mounts := &Pod{Meta: Meta{Name: "db-1", Namespace: "shop"}}
	mounts.Spec.Mounts = map[string]Mount{"/a": {Volume: "gone"}, "/b": {Volume: "lost"}, "/c": {Volume: "fine"}}
	around := Around{
		Node: func(name string) *Node {
			n := &Node{Meta: Meta{Name: name}}
			n.Effective.Drain = &Drain{}
			return n
		},
		Volume: func(_, name string) *Volume {
			return map[string]*Volume{"lost": {Status: VolumeStatus{Phase: VolumeLost, Node: "w9"}}, "fine": {}}[name]
		},
	}
	pods := func(p ...*Pod) []*Pod { return p }
	for name, c := range map[string]struct {
		x     Explanation
		state string
		want  string
	}{
		"canary":      {ExplainApp(held, nil, around), StateWaiting, "app/shop/web canary_held: canary of 1 is healthy"},
		"quota":       {ExplainApp(per, nil, around), StateWaiting, "namespace/shop quota: no cpu left"},
		"job's quota": {ExplainJob(job, nil, around), StateWaiting, "namespace/shop quota: no cpu left"},
		"job failed":  {ExplainJob(failed, pods(onDrained), around), StateFailing, "job/ exited: main exited with code 1"},
		"drain":       {ExplainApp(fine, pods(onDrained), around), StateProgressing, "node/w1 draining: node w1 is drained"},
		"pod's drain": {ExplainPod(onDrained, around), StateProgressing, "node/w1 draining: node w1 is drained"},
		"volumes":     {ExplainPod(mounts, around), StateWaiting, "volume/shop/gone volume: volume gone does not exist\nvolume/shop/lost volume: volume lost cannot be reached: its node w9 is dead or gone"},
	} {
		var got []string
		for _, b := range c.x.Causes {
			got = append(got, fmt.Sprintf("%s %s: %s", b.Ref, b.Reason, b.Message))
			if b.WayOut == "" {
				t.Errorf("%s: no way out of %s", name, b.Reason)
			}
		}
		if all := strings.Join(got, "\n"); c.x.State != c.state || !strings.HasPrefix(all, c.want) {
			t.Errorf("%s: is %s: %s", name, c.x.State, all)
		}
	}
}
