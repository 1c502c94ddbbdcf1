package controller

import (
	"fmt"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// TestPlanVolume reads what is so off pods and nodes.
func TestPlanVolume(t *testing.T) {
	type given struct {
		Volume   api.VolumeSpec
		Node     string
		Data     api.VolumeData
		Deleting bool
		Verdict  *api.Verdict // of the node; nil: it was deleted
		Pods     []struct {
			Name, Node, Mounts string
			Phase              api.Phase
		}
	}
	plans(t, "volume", func(_ *testing.T, g given) fmt.Stringer {
		v := &api.Volume{Meta: api.Meta{Name: "data", Namespace: "default"}, Spec: g.Volume, Effective: g.Volume.WithDefaults()}
		v.Status.Node, v.Status.Data = g.Node, g.Data
		if g.Deleting {
			at := ago(1)
			v.Meta.DeletedAt = &at
		}
		var node *api.Node
		if g.Verdict != nil {
			node = &api.Node{Status: api.NodeStatus{Health: api.NodeHealth{Verdict: *g.Verdict}}}
		}
		var pods []*api.Pod
		for _, p := range g.Pods {
			pod := &api.Pod{Meta: api.Meta{Name: p.Name}, Status: api.PodStatus{Phase: p.Phase}}
			pod.Spec.Node, pod.Spec.Mounts = p.Node, map[string]api.Mount{"/d": {Volume: p.Mounts}}
			pods = append(pods, pod)
		}
		return planVolume(v, pods, node)
	})
}
