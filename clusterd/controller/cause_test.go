package controller

import (
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// TestWhyNamesTheContainer: of the containers of a pod, the one to blame is named.
func TestWhyNamesTheContainer(t *testing.T) {
	well := api.ContainerStatus{State: api.ContainerRunning, Ready: true}
	ended := func(state string, code int, oom bool) api.ContainerStatus {
		return api.ContainerStatus{State: state, Last: &api.Exit{Code: code, OOM: oom}}
	}
	for _, c := range []struct {
		what       string
		containers map[string]api.ContainerStatus
		want       string
	}{
		{"init ends badly", map[string]api.ContainerStatus{"migrate": ended(api.ContainerWaiting, 3, false), "log": {}, "main": {}}, "migrate last exited with code 3"},
		{"init is done", map[string]api.ContainerStatus{"migrate": ended(api.ContainerExited, 0, false), "log": ended(api.ContainerWaiting, 137, true), "main": {}}, "log was killed: it used more memory than its limit"},
		{"main, beside what is well", map[string]api.ContainerStatus{"migrate": ended(api.ContainerExited, 0, false), "log": well, "main": ended(api.ContainerWaiting, 1, false)}, "main last exited with code 1"},
		{"a restart long ago", map[string]api.ContainerStatus{"main": {State: api.ContainerRunning, Ready: true, Last: &api.Exit{Code: 1}}}, "runs, but is not ready"},
	} {
		pod := &api.Pod{Spec: api.PodSpec{Node: "w1", PodTemplate: api.PodTemplate{
			Init: map[string]api.Init{"migrate": {}}, Sidecars: map[string]api.Container{"log": {}}}},
			Status: api.PodStatus{Phase: api.PhaseRunning, Containers: c.containers}}
		if got := why(pod); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
		cause := (&rollout{}).causeOf(pod, "deadline", "")
		if name, last := blamed(pod); cause.Container != name || last != nil && *cause.ExitCode != last.Code {
			t.Errorf("%s: cause %+v", c.what, cause)
		}
	}
}
