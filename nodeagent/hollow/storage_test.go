package hollow_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// A full disk is named at once, is a cause once it is certain, and is taken
// back when there is room.
func TestDiskFullIsSaid(t *testing.T) {
	run(t, func(c *cluster) {
		c.node.Storage.Fill(fmt.Errorf("scratch space at /tmp: %w", syscall.ENOSPC))
		c.create("web-1", func(s *api.PodSpec) { s.Mounts = map[string]api.Mount{"/tmp": {Scratch: "8Mi"}} })
		c.create("web-2", nil)
		c.after(2 * time.Second)
		if st := c.get("web-1").Status; st.Reason != "disk_full" || !strings.Contains(st.Message, "no space left on device") || st.Fatal != nil {
			t.Errorf("status is %+v", st)
		}
		if st := c.get("web-2").Status; !st.Ready {
			t.Errorf("its neighbour, which needs no space, is %+v", st)
		}
		c.after(15 * time.Second)
		if f := c.get("web-1").Status.Fatal; f == nil || f.Reason != "disk_full" || f.Node == "" || !strings.Contains(f.Message, "is full: ") {
			t.Errorf("fatal is %+v", f)
		}
		c.node.Storage.Fill(nil)
		c.after(10 * time.Second)
		if st := c.get("web-1").Status; !st.Ready || st.Reason != "" || st.Fatal != nil {
			t.Errorf("status is %+v", st)
		}
		spec, _ := c.rt.Container(c.mainID("web-1"))
		if len(spec.Mounts) == 0 || spec.Mounts[0].Target != "/tmp" || spec.Mounts[0].ReadOnly {
			t.Errorf("mounts are %+v", spec.Mounts)
		}
	})
}
