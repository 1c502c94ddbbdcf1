package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestExplainPod: each thing that can be wrong is named with its cause, once,
// with a way out.
func TestExplainPod(t *testing.T) {
	container := func(s ContainerStatus) map[string]ContainerStatus {
		return map[string]ContainerStatus{MainContainer: s}
	}
	for name, c := range map[string]struct {
		node   string
		status PodStatus
		state  string
		want   string // reason, message, and a word of the way out
	}{
		"oom":           {"w1", PodStatus{Phase: PhaseRunning, Containers: container(ContainerStatus{State: ContainerWaiting, Last: &Exit{Code: 137, OOM: true}})}, StateFailing, "oom: main was killed: it used more memory than its limit: Raise memory"},
		"crash loop":    {"w1", PodStatus{Phase: PhaseRunning, Fatal: &Cause{Reason: "crash_loop", Message: "main exited with code 7 three times", ExitCode: new(7)}}, StateFailing, "crash_loop: main exited with code 7 three times: --previous"},
		"brimful":       {"w1", PodStatus{Phase: PhaseRunning, Fatal: &Cause{Reason: "crash_loop", Message: "main exited with code 1 with its scratch space at /tmp (16Mi)" + Brimful, ExitCode: new(1)}}, StateFailing, "crash_loop: main exited with code 1 with its scratch space at /tmp (16Mi) full: larger size"},
		"exited":        {"w1", PodStatus{Phase: PhaseRunning, Containers: container(ContainerStatus{State: ContainerWaiting, Last: &Exit{Code: 3}})}, StateFailing, "exited: main exited with code 3: --previous"},
		"probe":         {"w1", PodStatus{Phase: PhaseRunning, Reason: "unhealthy", Message: "GET / answers 500"}, StateFailing, "unhealthy: GET / answers 500: health"},
		"unschedulable": {"", PodStatus{Phase: PhasePending, Reason: Unschedulable, Message: "no node fits: 1 is cordoned"}, StateWaiting, "unschedulable: no node fits: 1 is cordoned: Add a node"},
		"secret":        {"w1", PodStatus{Phase: PhaseStarting, Reason: "missing_secret", Message: "secret db does not exist"}, StateWaiting, "missing_secret: secret db does not exist: Create it"},
		"image":         {"w1", PodStatus{Phase: PhaseStarting, Fatal: &Cause{Reason: "image_unavailable", Message: "nginx:9 is not there"}}, StateFailing, "image_unavailable: nginx:9 is not there: registry"},
		"refused":       {"w1", PodStatus{Phase: PhaseStarting, Reason: "pull_refused", Message: "the registry wants a login"}, StateWaiting, "pull_refused: the registry wants a login: pull_auth"},
		"disk":          {"w1", PodStatus{Phase: PhaseStarting, Reason: "disk_full", Message: "no space left on w1"}, StateWaiting, "disk_full: no space left on w1: disk"},
		"volume":        {"", PodStatus{Phase: PhasePending, Reason: Unschedulable, Message: "no node fits: volume data is on node w2 and not on 2 others, 1 is dead"}, StateWaiting, "unschedulable: no node fits: volume data is on node w2 and not on 2 others, 1 is dead: bring the node back"},
		"room":          {"", PodStatus{Phase: PhasePending, Reason: MakingRoom, Message: "waits for room on node w1"}, StateWaiting, "making_room: waits for room on node w1: grace period"},
		"lost":          {"w1", PodStatus{Phase: PhaseLost, Reason: "node_dead", Message: "node w1 is dead"}, StateFailing, "node_dead: node w1 is dead: "},
		"pulling":       {"w1", PodStatus{Phase: PhaseStarting, Reason: "pulling", Message: "pulling nginx:1"}, StateProgressing, ""},
		"new":           {"", PodStatus{}, StateProgressing, ""},
		"ready":         {"w1", PodStatus{Phase: PhaseRunning, Ready: true, Containers: container(ContainerStatus{Ready: true, Last: &Exit{Code: 1}})}, StateHealthy, ""},
		"done":          {"w1", PodStatus{Phase: PhaseSucceeded}, StateEnded, ""},
	} {
		p := &Pod{Meta: Meta{Name: "web-1", Namespace: "shop"}, Spec: PodSpec{Node: c.node}, Status: c.status}
		x := ExplainPod(p, nothingAround)
		if x.State != c.state || x.Summary == "" {
			t.Errorf("%s: is %s: %q, want %s", name, x.State, x.Summary, c.state)
		}
		if c.want == "" {
			if len(x.Causes) > 0 {
				t.Errorf("%s: has a cause: %+v", name, x.Causes)
			}
			continue
		}
		if len(x.Causes) != 1 {
			t.Errorf("%s: %d causes", name, len(x.Causes))
			continue
		}
		b := x.Causes[0]
		cut := strings.LastIndex(c.want, ": ")
		if fmt.Sprintf("%s: %s", b.Reason, b.Message) != c.want[:cut] || !strings.Contains(b.WayOut, c.want[cut+2:]) || b.Pod != "web-1" {
			t.Errorf("%s: %+v", name, b)
		}
		if story := strings.Join(b.Story(), "\n"); !strings.Contains(story, b.Message) {
			t.Errorf("%s: the story is not the same: %s", name, story)
		}
	}
}

// TestExplainApp: the rollout's word first, then its pods, those that fail
// before those that wait, each cause once.
func TestExplainApp(t *testing.T) {
	fatal := &Cause{Reason: "crash_loop", Message: "main exited with code 7 three times", Pod: "web-2"}
	ill := &Pod{Meta: Meta{Name: "web-2", Namespace: "shop"}, Spec: PodSpec{Node: "w1"}, Status: PodStatus{Phase: PhaseRunning, Fatal: fatal}}
	homeless := &Pod{Meta: Meta{Name: "web-1", Namespace: "shop"}, Status: PodStatus{Reason: Unschedulable, Message: "no node fits: 1 is draining"}}
	leaving := &Pod{Meta: Meta{Name: "web-0", Namespace: "shop", DeletedAt: new(time.Time)}, Status: PodStatus{Fatal: fatal}}
	app := func(phase RolloutPhase, cause *Cause, ready int, history ...Rollout) *App {
		a := &App{Meta: Meta{Name: "web", Namespace: "shop", Generation: 2}}
		a.Effective.Replicas = new(2)
		a.Status = AppStatus{ObservedGeneration: 2, Ready: ready, Rollout: Rollout{Generation: 2, Phase: phase, Cause: cause}, History: history}
		return a
	}
	for name, c := range map[string]struct {
		app    *App
		pods   []*Pod
		state  string
		says   string
		causes []string
	}{
		"healthy":     {app(RolloutComplete, nil, 2), nil, StateHealthy, "2 of 2 pods serve", nil},
		"failed":      {app(RolloutFailed, fatal, 0), []*Pod{homeless, ill, leaving}, StateFailing, "generation 2 failed", []string{"crash_loop", Unschedulable}},
		"rolled back": {app(RolloutComplete, nil, 2, Rollout{Generation: 1, Phase: RolloutRolledBack, Cause: fatal}), nil, StateHealthy, "generation 1 failed and was rolled back", []string{"crash_loop"}},
		"waits":       {app(RolloutInProgress, nil, 1), []*Pod{homeless}, StateWaiting, "generation 2 is rolled out", []string{Unschedulable}},
		"on its way":  {app(RolloutInProgress, nil, 1), nil, StateProgressing, "1 of 2 pods serve", nil},
	} {
		x := ExplainApp(c.app, c.pods, nothingAround)
		var got []string
		for _, b := range x.Causes {
			got = append(got, b.Reason)
		}
		if x.State != c.state || !strings.Contains(x.Summary, c.says) || fmt.Sprint(got) != fmt.Sprint(c.causes) {
			t.Errorf("%s: is %s: %s: %v", name, x.State, x.Summary, got)
		}
		// Nobody is sent to the logs of a pod that is gone.
		for _, b := range x.Causes {
			if there := slices.ContainsFunc(c.pods, func(p *Pod) bool { return p.Meta.Name == b.Pod }); strings.Contains(b.WayOut, "clusterd logs pod/"+b.Pod) != (there && b.Reason == "crash_loop") {
				t.Errorf("%s: the way out of %s is %s", name, b.Reason, b.WayOut)
			}
		}
	}
}

// TestOneCrashIsOneCause: what a rollout says of a container that keeps ending,
// and what its pod says by now, are one cause; another container's is another.
func TestOneCrashIsOneCause(t *testing.T) {
	loop := func(container string, times int) *Cause {
		return &Cause{Reason: "crash_loop", Message: fmt.Sprintf("%s exited with code 7, %d times in a row", container, times), Pod: "web-1", Container: container, ExitCode: new(7)}
	}
	app := &App{Meta: Meta{Name: "web", Namespace: "shop"}, Status: AppStatus{Rollout: Rollout{Phase: RolloutFailed, Cause: loop("main", 3)}}}
	pod := &Pod{Meta: Meta{Name: "web-1", Namespace: "shop"}, Status: PodStatus{Phase: PhaseRunning, Fatal: loop("main", 6)}}
	other := &Pod{Meta: Meta{Name: "web-1", Namespace: "shop"}, Status: PodStatus{Phase: PhaseRunning, Fatal: loop("log", 3)}}
	x := ExplainApp(app, []*Pod{pod, other}, nothingAround)
	var got []string
	for _, b := range x.Causes {
		got = append(got, b.Message)
	}
	if want := "main exited with code 7, 3 times in a row; log exited with code 7, 3 times in a row"; strings.Join(got, "; ") != want {
		t.Errorf("causes are %q", got)
	}
}
