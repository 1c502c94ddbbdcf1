//go:build linux

package containerd_test

import (
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/containerd"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/runtimetest"
)

func TestConformance(t *testing.T) {
	m := open(t)
	runtimetest.Run(t, func(t *testing.T) *runtimetest.Node {
		n := &runtimetest.Node{
			Runtime: m.runtime,
			Image:   "toolbox:1",
			Beat:    300 * time.Millisecond,
			Sandbox: func(t *testing.T, pod string) runtime.Sandbox { return m.sandbox(t, pod) },
			Leaks:   m.leaks,
		}
		n.Crash = func(t *testing.T, during func()) { m.crash(t, n.Runtime, during) }
		n.Reopen = func(t *testing.T) {
			if err := m.runtime.Close(); err != nil {
				t.Error(err)
			}
			next, err := containerd.Open(m.config)
			if err != nil {
				t.Fatal(err)
			}
			m.runtime, n.Runtime = next, next
		}
		n.Archive = func(t *testing.T) ([]byte, string) {
			b, err := toolboxArchive(m.dir+"/toolbox", "loaded:2", func(c *v1.Config) { c.StopSignal = "SIGQUIT" })
			if err != nil {
				t.Fatal(err)
			}
			return b, "docker.io/library/loaded:2"
		}
		n.Reloaded = func(t *testing.T) []byte {
			b, err := toolboxArchive(m.dir+"/toolbox", "loaded:2", func(c *v1.Config) { c.StopSignal = "SIGINT" })
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		return n
	})
}
