package pod

import (
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// A pod that needs the node's lease begins on one that will last, waits where
// there is none, and ends with the one that it began on.
func TestOnLease(t *testing.T) {
	now := time.Unix(1000, 0)
	const held = 15 * time.Second
	for name, tc := range map[string]struct {
		isolation string
		rec       record
		lease     leaseFact
		waits     bool
		isolated  bool
		era       int64
		again     time.Duration // 0: nothing to look for
	}{
		"needs none":                  {},
		"begins":                      {isolation: api.StopIsolated, lease: leaseFact{7, held}, era: 7, again: held},
		"has none yet":                {isolation: api.StopIsolated, waits: true},
		"it would end in a moment":    {isolation: api.StopIsolated, lease: leaseFact{7, time.Second}, waits: true, again: leaseRest / 4},
		"goes on":                     {isolation: api.StopIsolated, rec: record{Era: 7}, lease: leaseFact{7, time.Second}, era: 7, again: time.Second},
		"it has ended":                {isolation: api.StopIsolated, rec: record{Era: 7}, lease: leaseFact{7, 0}, era: 7, isolated: true},
		"it ended and there is a new": {isolation: api.StopIsolated, rec: record{Era: 7}, lease: leaseFact{8, held}, era: 7, isolated: true},
		"it is isolated for good":     {isolation: api.StopIsolated, rec: record{Era: 7, Isolated: true}, lease: leaseFact{7, held}, era: 7, isolated: true},
	} {
		t.Run(name, func(t *testing.T) {
			rec := tc.rec
			p := &planner{pod: &api.Pod{Spec: api.PodSpec{Isolation: tc.isolation}}, see: facts{Lease: tc.lease}, now: now, rec: &rec}
			isolated := p.onLease()
			var again time.Duration
			if !p.out.Again.IsZero() {
				again = p.out.Again.Sub(now)
			}
			if isolated != tc.isolated || p.see.NoLease != tc.waits || p.see.Hold != tc.waits || rec.Era != tc.era || again != tc.again {
				t.Errorf("isolated %v, waits %v, era %d, again in %s", isolated, p.see.NoLease, rec.Era, again)
			}
		})
	}
}
