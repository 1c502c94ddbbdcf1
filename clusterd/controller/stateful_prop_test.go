package controller

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// individuals checks what must be so of a stateful app after a plan was
// carried out: at most one pod of an ordinal that is not over, and epochs that
// grow.
func (m *model) individuals(p appPlan) {
	holder := map[int]*api.Pod{}
	for _, pod := range m.pods {
		if pod.Spec.Ordinal == nil || pod.Status.Phase.Ended() || pod.Meta.Deleting() && pod.Spec.Node == "" {
			continue
		}
		n := *pod.Spec.Ordinal
		if other := holder[n]; other != nil {
			m.t.Fatalf("%s and %s are of one ordinal:\n%s", other.Meta.Name, pod.Meta.Name, p)
		}
		holder[n] = pod
	}
	for _, pod := range p.create {
		if pod.Spec.Ordinal == nil {
			continue
		}
		n := *pod.Spec.Ordinal
		if last := m.epochs[n]; pod.Spec.Epoch <= last {
			m.t.Fatalf("%s comes after epoch %d", pod.Meta.Name, last)
		}
		if m.epochs == nil {
			m.epochs = map[int]int64{}
		}
		m.epochs[n] = pod.Spec.Epoch
	}
}

func TestPlanStatefulKeepsItsPromises(t *testing.T) {
	promises(t, func(t *rapid.T) *api.Stateful {
		return &api.Stateful{Order: rapid.SampledFrom([]string{"ordered", "parallel"}).Draw(t, "order")}
	})
}
