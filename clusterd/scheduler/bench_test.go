//go:build unix

package scheduler

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// mixed is what most clusters run: some spread softly, some require a label.
func mixed(shape int) *api.Placement {
	switch shape % 4 {
	case 0:
		return &api.Placement{Spread: "zone"}
	case 1:
		return &api.Placement{Require: map[string]string{"pool": fmt.Sprint("p", shape%8)}}
	}
	return nil
}

func benchmark(b *testing.B, nodes int, placement func(shape int) *api.Placement) {
	benchmarkApps(b, nodes, 200, placement)
}

// benchmarkApps places pods of so many apps, one of each in turn.
func benchmarkApps(b *testing.B, nodes, apps int, placement func(shape int) *api.Placement) {
	const pods = 10_000
	p := newPicture()
	for i := range nodes {
		p.setNode(testNode(fmt.Sprintf("w%04d", i), fmt.Sprint(8<<(i%3)), fmt.Sprintf("%dGi", 32<<(i%3)), 110, map[string]string{"zone": fmt.Sprint("z", i%3), "pool": fmt.Sprint("p", i%8)}, api.VerdictReady, false))
	}
	for shape := range 200 { // a pod of each app is there, for others to be near
		pod := testPod(fmt.Sprint("base-", shape), fmt.Sprint("app-", shape), "50m", "64Mi", nil)
		pod.Spec.Node, pod.Spec.Revision = fmt.Sprintf("w%04d", shape), "old"
		p.setPod(pod)
	}
	var pending []candidate
	for i := range pods {
		shape := i % apps
		pending = append(pending, newCandidate(testPod(fmt.Sprintf("p%05d", i), fmt.Sprint("app-", shape), fmt.Sprintf("%dm", 50+10*(shape%20)), fmt.Sprintf("%dMi", 64+16*(shape%10)), placement(shape))))
	}
	waiting := inOrder(pending)
	b.ResetTimer()
	done, used := 0, time.Duration(0)
	for b.Loop() {
		before := processorTime(b)
		plan := planBinds(p, waiting, pods, nil)
		done += len(plan)
		used += processorTime(b) - before
		b.StopTimer()
		for _, d := range plan {
			if d.node == "" {
				b.Fatal(d)
			}
			p.unplace(d.pod.Meta.UID)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(done)/b.Elapsed().Seconds(), "decisions/s")
	b.ReportMetric(float64(done)/used.Seconds(), "decisions/cpu-s")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(done), "ns/decision")
}

// processorTime is what the process has used: on a machine that does other
// things too, it says more than a clock.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// The shapes of Kubernetes' scheduler_perf: basic, spread, affinity and
// anti-affinity.
func BenchmarkSchedule5000NodesBasic(b *testing.B) {
	benchmarkApps(b, 5000, 1, func(int) *api.Placement { return nil })
}

// As basic, of many apps whose pods come in turns.
func BenchmarkSchedule5000NodesManyApps(b *testing.B) {
	benchmark(b, 5000, func(int) *api.Placement { return nil })
}

func BenchmarkSchedule1000Nodes(b *testing.B) { benchmark(b, 1000, mixed) }
func BenchmarkSchedule5000Nodes(b *testing.B) { benchmark(b, 5000, mixed) }

func BenchmarkSchedule5000NodesSpread(b *testing.B) {
	benchmark(b, 5000, func(int) *api.Placement { return &api.Placement{Spread: "zone", MaxSkew: new(1)} })
}

func BenchmarkSchedule5000NodesAffinity(b *testing.B) {
	benchmark(b, 5000, func(shape int) *api.Placement {
		return &api.Placement{Affinity: map[string]string{fmt.Sprint("app-", (shape+1)%200): "zone"}}
	})
}

func BenchmarkSchedule5000NodesAntiAffinity(b *testing.B) {
	benchmark(b, 5000, func(shape int) *api.Placement {
		return &api.Placement{OnePer: "node", AntiAffinity: map[string]string{fmt.Sprint("app-", (shape+1)%200): "node"}}
	})
}
