package fake_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/fake"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/logfile"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/runtimetest"
)

func TestConformance(t *testing.T) {
	runtimetest.Run(t, func(t *testing.T) *runtimetest.Node {
		rt := fake.New()
		rt.AddImage("toolbox:1", fake.Toolbox())
		return &runtimetest.Node{
			Runtime: rt,
			Image:   "toolbox:1",
			Beat:    10 * time.Millisecond,
			Crash: func(t *testing.T, during func()) {
				rt.Break(errors.New("connection refused"))
				during()
				rt.Break(nil)
			},
			Reopen: func(t *testing.T) {
				if err := rt.Close(); err != nil {
					t.Error(err)
				}
			},
			Archive: func(t *testing.T) ([]byte, string) {
				return []byte("loaded:2 print=hi;forever\n"), "docker.io/library/loaded:2"
			},
			Reloaded: func(t *testing.T) []byte { return []byte("loaded:2 print=ho;forever\n") },
		}
	})
}

func run(t *testing.T, rt *fake.Runtime, id, image string) runtime.Status {
	t.Helper()
	if _, err := rt.Pull(t.Context(), runtime.Fetch{Reference: image}); err != nil {
		t.Fatal(err)
	}
	c := runtime.Container{ID: id, Image: image, LogPath: filepath.Join(t.TempDir(), "log")}
	if err := rt.Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	st, err := rt.Start(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := fake.New()
		run(t, rt, "a", "ready-after-30s")
		run(t, rt, "b", "exit-3-after-1m")
		time.Sleep(29 * time.Second)
		synctest.Wait()
		if rt.Listening("a") {
			t.Error("ready too early")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !rt.Listening("a") {
			t.Error("not ready")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		st, err := rt.Status(t.Context(), "b")
		if err != nil || st.Exit.Code != 3 || st.Exit.At.Sub(st.StartedAt) != time.Minute {
			t.Errorf("%+v %v", st, err)
		}
		c, _ := rt.Container("b")
		for l, err := range logfile.Read(t.Context(), c.LogPath, logfile.Query{}) {
			if err != nil || l.Text != "about to exit with 3" || l.At != st.StartedAt.UTC() {
				t.Errorf("%+v %v", l, err)
			}
		}
	})
}

func TestReboot(t *testing.T) {
	rt := fake.New()
	run(t, rt, "a", "nginx:1.27")
	rt.Reboot()
	if st, err := rt.Status(t.Context(), "a"); err != nil || st.State != runtime.Exited || !st.Exit.Unknown {
		t.Errorf("%+v %v", st, err)
	}
}

func TestNamed(t *testing.T) {
	for ref, want := range map[string]string{
		"docker.io/library/nginx:1.27":         "print=listening listen on-term=0 forever",
		"docker.io/library/exit-3:1":           "print=about to exit with 3 wait=0s exit=3",
		"docker.io/library/exit-4-after-5s":    "print=about to exit with 4 wait=5s exit=4",
		"docker.io/library/commands-1:1":       "listen on-term=0 wait=0s commands=1 forever",
		"docker.io/t/oom-after-1s@sha256:0123": "listen wait=1s oom",
		"docker.io/library/missing:latest":     "",
	} {
		i, _ := fake.Named(ref)
		if got := strings.Join(i.Script, " "); got != want {
			t.Errorf("%s: %s", ref, got)
		}
	}
}
